"""Write `docs/requirements.md`: which numbered requirement is proven by which test (``python -m tests.requirements``).

A requirement is listed under the tests that carry its number (``@pytest.mark.requirement("D15")``); one that no test
carries is listed as not proven yet. The numbers are those of the project's requirement lists.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections import defaultdict
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "requirements.md"

_ATTACKS = {"A": 10, "B": 11, "C": 10, "D": 20, "E": 8, "F": 5, "G": 5, "H": 12, "I": 5}
GROUPS: dict[str, list[str]] = {
    "DICOM and image intake": [f"D{number}" for number in range(1, 51)],
    "ImagingStudy from DICOM": [f"M{number}" for number in range(1, 31)],
    "Patient": [f"P{number}" for number in range(1, 7)],
    "Identity of resources": [f"I{number}" for number in range(1, 5)],
    "AI results": [f"R{number}" for number in range(1, 10)],
    "Audit": ["A1", "A2"],
    "SMART App Launch": [f"S{number}" for number in range(1, 94)],
    "Attacks": [f"X{group}{number}" for group, most in _ATTACKS.items() for number in range(1, most + 1)],
}
# What no test here can show, and why.
NOT_JUDGED = {
    "S88": "about a draft of the standard; see S35",
    "S91": "server to server: not for this app",
    "S93": "optional: out of scope for a clinician app",
}


class _Collector:
    """Notes which test carries which number."""

    def __init__(self) -> None:
        self.tests: dict[str, set[str]] = defaultdict(set)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            name = re.sub(r"\[.*", "", item.nodeid)
            for marker in item.iter_markers("requirement"):
                for number in marker.args:
                    self.tests[str(number)].add(name)


def collect() -> dict[str, set[str]]:
    """Return the tests of each number."""
    collector = _Collector()
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        code = pytest.main(["--collect-only", "-q"], plugins=[collector])
    if code != pytest.ExitCode.OK:
        raise SystemExit(f"the tests can't be collected:\n{said.getvalue()[-2000:]}")
    return collector.tests


def page(tests: dict[str, set[str]]) -> str:
    """Return the page."""
    known = {number for numbers in GROUPS.values() for number in numbers}
    lines = [
        "# Requirements and the tests that prove them",
        "",
        "Made from the tests by `make requirements`; a test fails where this page is out of date. A number counts as",
        "proven where at least one test carries it and `make test` passes.",
        "",
    ]
    for group, numbers in GROUPS.items():
        proven = [number for number in numbers if tests.get(number)]
        lines += [f"## {group}: {len(proven)} of {len(numbers)}", "", "| number | tests |", "|---|---|"]
        for number in numbers:
            found = "<br>".join(f"`{name.removeprefix('tests/')}`" for name in sorted(tests.get(number, ())))
            lines.append(f"| {number} | {found or NOT_JUDGED.get(number, 'not proven yet')} |")
        lines.append("")
    strays = sorted(set(tests) - known)
    if strays:
        lines += ["## Numbers that no list has", "", ", ".join(strays), ""]
    return "\n".join(lines)


def main() -> None:
    """Rewrite the page."""
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(collect()), "utf-8")
    sys.stdout.write(f"{PAGE}\n")


if __name__ == "__main__":
    main()
