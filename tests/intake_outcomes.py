"""Write `docs/intake_outcomes.md`: what becomes of each test file (``python -m tests.intake_outcomes``).

The outcome is that of the file alone: in one ledger, files that share a UID are duplicates or conflicts of each other.
"""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pydicom.data import get_testdata_file

from imaging_core.dicom.child import DecodePool
from imaging_core.dicom.secondary_capture import ImageFields, capture
from imaging_core.errors import Rejected
from ingestion_functions.file_kind import HEAD, kind_of
from tests.conftest import SHARED

__all__ = ["COLLECTIONS", "PAGE", "Outcome", "collection", "outcome_alone", "page"]

PAGE = Path(__file__).parents[1] / "docs" / "intake_outcomes.md"
COLLECTIONS = {
    "pydicom": "Files of pydicom (MIT)",
    "pydicom-data": "Files of pydicom-data (MIT)",
    "shared": "Real files of the project's data folder (not in the repository)",
    "hostile": "Hostile files of the project's data folder (not in the repository)",
}
_POISON = frozenset({"decode-timeout", "decode-memory", "decode-crashed"})
_FIELDS = ImageFields(patient_id="T1", birth_date="19700101", family="Test")
_NO_FILES = (".py", ".pyc", ".json", ".md", ".csv", ".license", ".zip")


@dataclass(frozen=True)
class Outcome:
    """What intake makes of a file, and what the ledger notes of it."""

    outcome: str
    reason: str = ""
    notes: str = ""


def collection(name: str) -> Mapping[str, Path] | None:
    """Return the files of a collection by the names that the page shows; None where it is not here."""
    if name == "pydicom":
        return _below(Path(str(get_testdata_file("MR_small.dcm"))).parent)
    if name == "pydicom-data":
        spec = importlib.util.find_spec("data_store")
        assert spec is not None, "pydicom-data is not installed"
        assert spec.submodule_search_locations is not None
        return _below(Path(next(iter(spec.submodule_search_locations))))
    folder = SHARED / "data" / "dicom" / ("files" if name == "shared" else "hostile")
    return _below(folder) if folder.is_dir() else None


def _below(folder: Path) -> Mapping[str, Path]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix not in _NO_FILES)
    return {path.relative_to(folder).as_posix(): path for path in files}


def outcome_alone(decoder: DecodePool, data: bytes) -> Outcome:
    """Return what becomes of a file that is dropped with its patient announced, into an empty ledger."""
    kind = kind_of(data[:HEAD])
    try:
        if not data:
            raise Rejected("empty-body")
        if kind.name in ("other", "zip"):
            raise Rejected("file-type-not-taken")
        if kind.name == "picture":
            data = decoder.run(partial(capture), data, _FIELDS)
        header = decoder.header(data)
    except Rejected as error:
        return Outcome("quarantined" if error.code in _POISON else "rejected", error.code)
    notes = (*header.warnings, *header.flags)
    return Outcome("accepted", notes=", ".join(notes))


def page(decoder: DecodePool) -> str:
    """Return the page; a collection that is not here stays as the page has it."""
    written = PAGE.read_text("utf-8") if PAGE.exists() else ""
    lines = [
        "# What becomes of each test file",
        "",
        "Made by `python -m tests.intake_outcomes`; a test sends each file through the running ingestion, too.",
        "The outcome is that of the file alone: files that share a UID with another one are its duplicates or conflict",
        "with it. Notes are the warning (B007: the data set lacks what its SOP class asks for) and the flags that the",
        "ledger keeps.",
        "",
    ]
    return "\n".join(lines) + "\n" + "\n".join(_section(decoder, name, written) for name in COLLECTIONS)


def _section(decoder: DecodePool, name: str, written: str) -> str:
    title = f"## {COLLECTIONS[name]}"
    files = collection(name)
    if files is None:
        return title + written.split(title, 1)[-1].split("\n## ", 1)[0].rstrip() + "\n"
    rows = list(_rows(decoder, files))
    totals = Counter(outcome.outcome for _, outcome in rows)
    told = ", ".join(f"{number} {outcome}" for outcome, number in sorted(totals.items()))
    lines = [title, "", f"{len(rows)} files: {told}.", "", "| file | outcome | reason | notes |", "|---|---|---|---|"]
    lines += [f"| `{file}` | {found.outcome} | {found.reason} | {found.notes} |" for file, found in rows]
    return "\n".join(lines) + "\n"


def _rows(decoder: DecodePool, files: Mapping[str, Path]) -> Iterator[tuple[str, Outcome]]:
    for name, path in files.items():
        yield name, outcome_alone(decoder, path.read_bytes())


if __name__ == "__main__":
    with DecodePool() as pool:
        PAGE.write_text(page(pool), "utf-8")
    sys.stdout.write(f"{PAGE}\n")
