"""``imaging deidentify``: a table of outcomes, pseudonyms for names, and a second call that finishes the first."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import SecondaryCaptureImageStorage

from ingestion_functions.deidentify import deidentify
from tests.dicom_samples import instance, part10


@pytest.fixture
def key(tmp_path: Path) -> str:
    path = tmp_path / "key"
    path.write_text("a secret of the tests, long enough")
    return f"file:{path}"


def call(*arguments: object) -> Result:
    return CliRunner().invoke(deidentify, [str(argument) for argument in arguments])


@pytest.mark.requirement("D39", "D42")
def test_a_folder_of_mixed_files(tmp_path: Path, key: str) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    (folder / "below").mkdir(parents=True)
    found = get_testdata_file("MR_small.dcm")
    assert isinstance(found, str)
    (folder / "below" / "mr").write_bytes(Path(found).read_bytes())
    (folder / "ct.dcm").write_bytes(part10(instance(PatientName="Wolfeschlegel^Jane")))
    (folder / "screen.dcm").write_bytes(part10(instance(SOPClassUID=SecondaryCaptureImageStorage)))
    (folder / "notes.txt").write_text("Jane")
    done = call(folder, "--out", out, "--key", key)
    assert done.exit_code == 1
    assert "may-identify" in done.output
    assert "not-dicom" in done.output
    copies = sorted(out.rglob("*.dcm"))
    assert len(copies) == 2
    for copy in copies:
        dataset = dcmread(copy)
        assert dataset.PatientIdentityRemoved == "YES"
        assert copy.stem == dataset.SOPInstanceUID
        assert [part.name for part in (copy.parents[1], copy.parents[0])] == [
            dataset.StudyInstanceUID,
            dataset.SeriesInstanceUID,
        ]
        assert b"Wolfeschlegel" not in copy.read_bytes()
    again = call(folder, "--out", out, "--key", key, "--pixels-seen")
    assert "there already" in again.output
    assert len(list(out.rglob("*.dcm"))) == 3
    assert not list(out.rglob("*.part"))


def test_a_cut_off_run_is_finished_by_the_next(tmp_path: Path, key: str) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}").write_bytes(part10(instance()))
    assert call(folder, "--out", out, "--key", key).exit_code == 0
    first, *others = sorted(out.rglob("*.dcm"))
    before = {path: path.read_bytes() for path in (first, *others)}
    first.unlink()
    (first.parent / f"{first.stem}.1.part").write_bytes(b"half of it")
    assert call(folder, "--out", out, "--key", key).exit_code == 0
    assert {path: path.read_bytes() for path in out.rglob("*.dcm")} == before, "the same copy, byte by byte"


@pytest.mark.parametrize(
    "wrong",
    [
        ["--key", "env:KEY"],
        ["--key", "file:/nowhere"],
        ["--region", "1,2,3"],
        ["--region", "a,b,c,d"],
        ["--safe-private", "X:0028:01"],
        ["--dates", "keep"],
    ],
)
def test_what_is_said_wrongly_is_told(tmp_path: Path, key: str, wrong: list[str]) -> None:
    done = call(tmp_path, "--out", tmp_path / "out", "--key", key, *wrong)
    assert done.exit_code in (1, 2)
    assert "Error" in done.output
    assert not (tmp_path / "out").exists()


def test_options_reach_the_copy(tmp_path: Path, key: str) -> None:
    source = tmp_path / "screen.dcm"
    source.write_bytes(part10(instance(SOPClassUID=SecondaryCaptureImageStorage, StudyDate="20240229")))
    done = call(source, "--out", tmp_path / "out", "--key", key, "--region", "0,0,2,2", "--dates", "shift")
    assert done.exit_code == 0, done.output
    (copy,) = (tmp_path / "out").rglob("*.dcm")
    dataset = dcmread(copy)
    assert [item.CodeValue for item in dataset.DeidentificationMethodCodeSequence] == ["113100", "113101", "113107"]
    assert dataset.StudyDate < "20240229"
