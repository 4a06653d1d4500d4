"""Did it reproduce? Every printed cell of a run's tables against the same cell of another run's, by default a committed
one, and the likely reason where they differ.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from perser.analysis import report
from perser.records import Run

NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?")
INTERVAL_SHARE = 0.25  # of an interval's width: less than this moves no conclusion
ABSOLUTE = 0.5  # points or hundredths of a nat, for numbers without an interval
SHARE, COUNT = 10.0, 1.0  # per cent of splits, listeners of all
P = 0.02  # of a small p-value; of others half of them


class Cell(NamedTuple):
    """A printed cell: where it stands, what is printed in the run and in the other, and how far apart their means are.

    difference: of the first numbers, in printed units; infinite where the cells cannot be compared. tolerance: what is
    allowed.
    """

    table: str
    row: str
    column: str
    obtained: str
    expected: str
    difference: float
    tolerance: float

    @property
    def verdict(self) -> str:
        """equal, within or differs."""
        if self.obtained == self.expected:
            return "equal"
        return "within" if self.difference <= self.tolerance else "differs"


def cells(run: Run, other: Run) -> Iterator[Cell]:
    """Every cell of both runs' tables. A cell or table that one of them lacks differs."""
    obtained, expected = (dict(_printed(one)) for one in (run, other))
    for place in dict.fromkeys((*expected, *obtained)):
        pair = obtained.get(place, "(missing)"), expected.get(place, "(missing)")
        yield Cell(*place, *pair, *_distance(*pair, place[2]))


def _printed(run: Run) -> Iterator[tuple[tuple[str, str, str], str]]:
    """Place and text of every cell: a table's name, its row's words and number, its column."""
    for name, (table, _) in report.tables_of(run).items():
        frame = table.cells.astype(str)
        words = [column for column in frame if not frame[column].str.contains(NUMBER).any()]
        labels = frame[words + [column for column in ("K", "Shots") if column in frame]].agg(" ".join, axis=1)
        numbered = labels + labels.groupby(labels).cumcount().map(lambda place: f" ({place + 1})" if place else "")
        for row, line in zip(numbered, frame.to_dict("records")):
            yield from (((name, row, column), text) for column, text in line.items())


def _distance(obtained: str, expected: str, column: str) -> tuple[float, float]:
    """Difference and tolerance of two cells; the difference is infinite where their words or numbers do not match.

    >>> _distance("+4.5 [+2.9, +6.2]", "+4.3 [+2.6, +6.0]", "Gain, log loss")
    (0.3, 0.85)
    """
    ours, theirs = ([float(text) for text in NUMBER.findall(cell)] for cell in (obtained, expected))
    if len(ours) != len(theirs) or not ours or NUMBER.sub("", obtained) != NUMBER.sub("", expected):
        return float("inf"), ABSOLUTE
    tolerance = ABSOLUTE
    if column.startswith("p "):
        tolerance = max(P, theirs[0] / 2)
    elif "%" in expected or " of " in expected:
        tolerance = SHARE if "%" in expected else COUNT
    elif len(theirs) == 3:
        tolerance = max(0.1, INTERVAL_SHARE * (theirs[2] - theirs[1]))  # 0.1: the last digit in print
    return round(max(abs(a - b) for a, b in zip(ours, theirs)), 6), round(tolerance, 6)


def reasons(run: Run, other: Run) -> list[str]:
    """What differs between the two runs and can explain different numbers, the weightiest first."""
    ours, theirs, words = run.manifest, other.manifest, []
    if ours.config_digest != theirs.config_digest:
        changed = [key for key in theirs.config if ours.config.get(key) != theirs.config[key]]
        words.append(f"other settings ({', '.join(changed)})")
    if ours.data_digest != theirs.data_digest:
        what = "other features" if (ours.clips, ours.ratings) == (theirs.clips, theirs.ratings) else "other data"
        words.append(f"{what} ({ours.upstream_identity.split()[0]} on {ours.corpus})")
    if ours.numerics_version != theirs.numerics_version:
        words.append(f"numerics version {ours.numerics_version} instead of {theirs.numerics_version}")
    here, there = ours.machine, theirs.machine
    words += [f"other {name} ({here.get(key)} instead of {there.get(key)})" for key, name in
              (("cpu", "processor"), ("python", "Python")) if here.get(key) != there.get(key)]
    words += [f"{name} {version} instead of {there['packages'].get(name)}"
              for name, version in here["packages"].items() if version != there["packages"].get(name)]
    return words


def lines(run: Run, other: Run) -> tuple[list[str], bool]:
    """The verdict for a person, and whether it reproduced: no cell differs by more than its tolerance."""
    compared = list(cells(run, other))
    parts = {verdict: [cell for cell in compared if cell.verdict == verdict]
             for verdict in ("equal", "within", "differs")}
    reproduced, moved = not parts["differs"], parts["within"] + parts["differs"]
    printed = [f"{'REPRODUCED' if reproduced else 'NOT REPRODUCED'}: {len(parts['equal']):,} of {len(compared):,} "
               f"cells equal, {len(parts['within']):,} within tolerance, {len(parts['differs']):,} differ"]
    if moved:
        largest = max(moved, key=lambda cell: cell.difference / cell.tolerance)
        printed += [f"largest difference: {largest.column}, {largest.row} (table {largest.table}): {largest.obtained} "
                    f"instead of {largest.expected}; allowed {largest.tolerance:g}",
                    f"likely reason: {'; '.join(reasons(run, other)) or 'none is known: the runs should be equal'}"]
    printed.append(_meaning(reproduced, moved))
    return printed, reproduced


def _meaning(reproduced: bool, moved: list[Cell]) -> str:
    if not moved:
        return "meaning: the same settings, code and data gave the same numbers here"
    if reproduced:
        return (f"meaning: no number moved by more than a quarter of its interval's width (or {ABSOLUTE:g} where it "
                "has none), so no conclusion changes")
    return "meaning: conclusions may differ; compare the tables, and the settings, data and versions of both manifests"
