"""What an accelerator computes against the processor: loss and gradients of the engine, features of a random WavLM."""

import argparse
import tempfile
from pathlib import Path

import torch

import benchmarks
from benchmarks import extraction, measure, outer_steps
from benchmarks.problem import Shape, Size, make_problem
from perser.errors import UserError
from perser.features import store, upstreams

ABOUT = "One card against the processor, on the same random numbers: largest relative differences."
LOSS, GRADIENT, FEATURES = 1e-5, 1e-3, 1e-3  # float32 sums in another order; TF32, which is off, gives over 1e-3
SIZE, SHAPE, CLIPS = Size(), Shape(16, 10, 10), 500
SMALL = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 128}


def check(device: torch.device, size: Size = SIZE, clips: int = 24) -> list[dict]:
    """A row per quantity: what, difference, limit, agrees."""
    cpu = torch.device("cpu")
    (loss, gradients), (loss_here, gradients_here) = (
        outer_steps.engine(make_problem(size, SHAPE, CLIPS, False, place))() for place in (cpu, device))
    differences = {"loss of an outer step": (abs(loss_here - loss) / abs(loss), LOSS),
                   "gradients of an outer step": (measure.largest_difference(gradients_here, gradients), GRADIENT),
                   "features": (_features(device, clips), FEATURES)}
    return [{"method": what, "difference": difference, "limit": limit, "agrees": difference <= limit}
            for what, (difference, limit) in differences.items()]


def _features(device: torch.device, clips: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        model = extraction._model(Path(folder) / "model", SMALL)
        corpus = extraction._corpus(Path(folder), clips, (0.5, 3.0))
        on = {place: store.extract(corpus, upstreams.load(str(model), device=place), Path(folder) / place.replace(
            ":", "-"), "none") for place in {"cpu", str(device)}}
        return measure.largest_difference([on[str(device)]], [on["cpu"]])


def main(arguments: list[str] | None = None) -> None:
    """Write the differences as JSON and print them; exit 1 where one is too large."""
    parser = argparse.ArgumentParser(description=ABOUT)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    try:
        device = benchmarks._device(options.device)
    except UserError as error:
        parser.exit(1, f"{error}\n")
    result = {"benchmark": "check", "about": ABOUT, "conditions": measure.conditions(device), "settings": {},
              "rows": check(device)}
    benchmarks.write(result, options.out)
    print(benchmarks.table(result))
    parser.exit(not all(row["agrees"] for row in result["rows"]))


if __name__ == "__main__":
    main()
