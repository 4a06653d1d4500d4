"""Add up JUnit reports into one closing line, `N passed, N failed, N skipped`; exit 1 on any failure."""

import argparse
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path


def tally(report: Path) -> tuple[int, int, int]:
    """(passed, failed, skipped) of one JUnit report. A missing, truncated or empty report counts as one failure."""
    try:
        suites = list(ElementTree.parse(report).iter("testsuite"))
    except (OSError, ElementTree.ParseError):
        return 0, 1, 0
    names = ("tests", "failures", "errors", "skipped")
    tests, failures, errors, skipped = (sum(int(suite.get(name, 0)) for suite in suites) for name in names)
    failed = failures + errors
    return tests - failed - skipped, failed if tests else 1, skipped


def main() -> int:
    """Print the closing line for the given reports and the stages that failed before them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("reports", nargs="+", type=Path)
    parser.add_argument("--failed", type=int, default=0, help="stages outside pytest that failed")
    parser.add_argument("--ended", type=int, default=[], action="append", help="exit status of a pytest; repeatable")
    arguments = parser.parse_args()
    passed, failed, skipped = map(sum, zip(*map(tally, arguments.reports), strict=True))
    # 1: tests failed, which a report counts; where none does, coverage fell short.
    crashed = [status for status in arguments.ended if status > bool(failed)]
    for status in crashed:
        print(f"pytest ended with status {status}, which counts as a failure whatever its report says")
    failed += arguments.failed + len(crashed)
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
