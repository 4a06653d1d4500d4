"""RAVDESS in the shape of SuperbER_RAVDESS: 240 rows, 8 options, one instruction per row.

Upstream's own choice of clips is not published; here each of the eight emotions gives 30 clips, drawn from the
speech files with actors as even as the counts allow.
"""

import re
import sys
from pathlib import Path

import click
import numpy as np
import soundfile as sf

from perser.features import audio
from perser.errors import UserError
from perser.phase2.export import review, write_task
from perser.phase2.suite import LEADS
from perser.seeds import rng

EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
QUESTIONS = ("What is the emotion of the speaker?", "Which emotion does the voice convey?",
             "Name the emotion you hear.")
EACH = 30
NAME = re.compile(r"03-01-(\d\d)-\d\d-\d\d-\d\d-(\d\d)")


def chosen(root: Path, seed: int) -> list[tuple[Path, str]]:
    """240 files with their emotions: per emotion the actors in a drawn order, one clip each until 30 are there."""
    clips: dict[str, dict[str, list[Path]]] = {}
    for path in sorted(root.rglob("03-01-*")):
        if match := NAME.fullmatch(path.stem):
            clips.setdefault(EMOTIONS[int(match[1]) - 1], {}).setdefault(match[2], []).append(path)
    found = []
    for emotion in EMOTIONS:
        draw, actors = rng(seed, "superb er ravdess", emotion), clips.get(emotion, {})
        queues = {actor: list(draw.permutation(np.array(files, dtype=object))) for actor, files in actors.items()}
        order = list(draw.permutation(sorted(queues)))
        taken = [queues[actor].pop() for _ in range(EACH) for actor in order if queues[actor]][:EACH]
        if len(taken) < EACH:
            raise UserError(f"{root}: {len(taken)} clips of {emotion}; {EACH} are needed: unpack all 24 actors")
        found += [(path, emotion) for path in taken]
    return [found[i] for i in rng(seed, "superb er ravdess").permutation(len(found))]


@click.command(epilog="Example: python tools/ravdess_phase2.py --root /path/to/ravdess --out out/tasks")
@click.option("--root", required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path))
@click.option("--seed", default=0, show_default=True)
def main(root: Path, out: Path, seed: int) -> None:
    """Write the task under OUT; exit code 1 when it breaks an upstream rule."""
    folder = out / "SuperbER" / "SuperbER_RAVDESS" / "data"
    try:
        clips = chosen(root, seed)
        folder.mkdir(parents=True, exist_ok=True)
        forms = [f"{lead} {question} The answer could be {', '.join(EMOTIONS[:-1])}, or {EMOTIONS[-1]}."
                 for question in QUESTIONS for lead in LEADS]
        rows = []
        for number, (path, emotion) in enumerate(clips):
            name = f"{number:03d}.wav"
            sf.write(folder / name, audio.read(path), audio.RATE, subtype="PCM_16")
            rows.append({"file": f"SuperbER_RAVDESS_{name}", "instruction": forms[number % len(forms)], "audio": name,
                         "label": emotion})
        folder = write_task(out, "SuperbER", "RAVDESS", rows, kind="classification", domain="speech",
                            metrics=["accuracy"], description="Emotion of acted speech, RAVDESS.",
                            license="CC BY-NC-SA 4.0")
    except UserError as error:
        raise click.ClickException(str(error)) from error
    broken = review(folder)
    click.echo("\n".join([str(folder), *broken]))
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
