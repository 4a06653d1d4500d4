"""Write small checkpoints of the real model families with random weights, for machines without trained ones.

They run through the same code as trained models and have learned nothing. Their config.json says so, and therefore all
records, captions and figures do.
"""

import argparse
from pathlib import Path

import torch
import transformers

FAMILIES = ("Wav2Vec2", "Hubert", "WavLM")
# The architecture of the base models: group norm over time, 20 ms frames, a seven-layer encoder of the waveform.
SIZE = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 256,
        "conv_dim": [64] * 7, "num_conv_pos_embeddings": 32, "num_conv_pos_embedding_groups": 4}


def write(family: str, folder: Path, seed: int) -> Path:
    """Write a family's checkpoint to FOLDER/FAMILY-random in the hub's format; returns its path."""
    config = getattr(transformers, f"{family}Config")(**SIZE, random_weights=True)
    place = folder / f"{family.lower()}-random"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        getattr(transformers, f"{family}Model")(config).save_pretrained(place)
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(place)
    return place


def main() -> None:
    """Write all families into one folder and print their paths."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="such as out/upstreams")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    transformers.logging.disable_progress_bar()
    for family in FAMILIES:
        print(write(family, arguments.folder, arguments.seed))


if __name__ == "__main__":
    main()
