"""From a finished run's records to its tables and figures."""

from pathlib import Path

from perser import captions, figures, records, tables


def report(run: Path, out: Path) -> list[Path]:
    """Write the tables and figures of one run to OUT/corpus/upstream/experiment; returns their paths.

    Writes main.md, main.tex, main.csv, shots.pdf, shots.png, gains.pdf and gains.png. Reads records and
    manifest, nothing else. Raises UserError when the run is not finished.
    """
    frame, manifest = records.read(run), records.manifest(run)
    names = captions.labels(frame)
    place = Path(out).joinpath(
        *(names[key].replace("/", "--") for key in ("corpus", "upstream", "experiment"))
    )
    written = tables.write(tables.main_table(frame), tables.main_caption(frame, manifest), place / "main")
    for draw in (figures.shots, figures.gains):
        written += figures.save(draw(frame), place / draw.__name__)
    return written
