"""Export RAVDESS as the Phase-2 task SuperbER_RAVDESS: 240 rows, 8 options, one instruction per row.

The clips of the published task are not known. Here each of the eight emotions has 30 clips, drawn from the speech files
and balanced over actors as far as the counts allow.
"""

import re
import sys
from pathlib import Path

import click
import numpy as np
import soundfile as sf

from perser import audio
from perser.errors import UserError
from perser.phase2.export import review, write_task
from perser.phase2.suite import LEADS
from perser.seeds import rng

EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
QUESTIONS = ("What is the emotion of the speaker?", "Which emotion does the voice convey?",
             "Name the emotion you hear.")
CLIPS = 30  # of an emotion
NAME = re.compile(r"03-01-(\d\d)-\d\d-\d\d-\d\d-(\d\d)")


def choose_clips(root: Path, seed: int) -> list[tuple[Path, str]]:
    """240 files with their emotions: for an emotion, one clip per actor in random order, repeated up to 30 clips."""
    clips: dict[str, dict[str, list[Path]]] = {}
    for path in sorted(root.rglob("03-01-*")):
        if match := NAME.fullmatch(path.stem):
            clips.setdefault(EMOTIONS[int(match[1]) - 1], {}).setdefault(match[2], []).append(path)
    chosen = []
    for emotion in EMOTIONS:
        draw, actors = rng(seed, "superb er ravdess", emotion), clips.get(emotion, {})
        queues = {actor: list(draw.permutation(np.array(files, dtype=object))) for actor, files in actors.items()}
        order = list(draw.permutation(sorted(queues)))
        taken = [queues[actor].pop() for _ in range(CLIPS) for actor in order if queues[actor]][:CLIPS]
        if len(taken) < CLIPS:
            raise UserError(f"{root}: {len(taken)} clips of {emotion}; {CLIPS} are needed: unpack all 24 actors")
        chosen += [(path, emotion) for path in taken]
    return [chosen[i] for i in rng(seed, "superb er ravdess").permutation(len(chosen))]


@click.command(epilog="Example: python tools/ravdess_phase2.py --root /path/to/ravdess --out out/tasks")
@click.option("--root", required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path))
@click.option("--seed", default=0, show_default=True)
def main(root: Path, out: Path, seed: int) -> None:
    """Write the task into OUT. The exit code is 1 if it breaks a rule of the benchmark."""
    folder = out / "SuperbER" / "SuperbER_RAVDESS" / "data"
    try:
        clips = choose_clips(root, seed)
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
    problems = review(folder)
    click.echo("\n".join([str(folder), *problems]))
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
