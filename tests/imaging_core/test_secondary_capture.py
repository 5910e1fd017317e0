"""A picture becomes an instance that a validator nobody here wrote finds no fault with."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from imaging_core.dicom.header import HeaderLimits, read_header
from imaging_core.dicom.secondary_capture import ImageFields, capture, derived_uid
from tests.dicom_samples import jpeg, png

FIELDS = ImageFields(
    "P1", "19700101", "Doe", given="Jane", sex="F", issuer="urn:oid:1.2.3", body_part="CHEST", view="PA"
)


@pytest.mark.requirement("D50")
@pytest.mark.parametrize(
    "picture",
    [png(), png(bits=16), png((7, 5)), jpeg(), jpeg("RGB")],
    ids=["grey", "16 bit", "odd size", "JPEG", "colour JPEG"],
)
def test_dciodvfy_finds_no_error(tmp_path: Path, picture: bytes) -> None:
    file = tmp_path / "capture.dcm"
    file.write_bytes(capture(picture, FIELDS))
    done = subprocess.run(["dciodvfy", str(file)], capture_output=True, text=True, check=False)
    assert [line for line in done.stderr.splitlines() if line.startswith("Error")] == []


def test_it_passes_intake_and_is_the_same_each_time() -> None:
    first, second = capture(png(), FIELDS), capture(png(), FIELDS)
    assert first == second
    header = read_header(first, HeaderLimits())
    assert header.sop_uid.startswith("2.25.")
    assert header.own is False


def test_uids_differ_by_what_they_are_made_of() -> None:
    assert derived_uid("a", "bc") != derived_uid("ab", "c")
    assert len(derived_uid("a")) <= 64
