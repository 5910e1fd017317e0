"""What passes as an instance, and what is told to the sender of anything else."""

from __future__ import annotations

import os
import signal
import time
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.sequence import Sequence
from pydicom.uid import DeflatedExplicitVRLittleEndian

from imaging_core.dicom.child import DecodePool
from imaging_core.dicom.header import HeaderLimits, read_header, valid_uid
from imaging_core.errors import Rejected
from tests.dicom_samples import instance, part10

LIMITS = HeaderLimits()


def refused(data: bytes, limits: HeaderLimits = LIMITS) -> str:
    with pytest.raises(Rejected) as caught:
        read_header(data, limits)
    return caught.value.code


def nested(depth: int) -> Dataset:
    dataset = instance()
    item = Dataset()
    for _ in range(depth):
        outer = Dataset()
        outer.ReferencedStudySequence = Sequence([item])
        item = outer
    dataset.ReferencedStudySequence = item.ReferencedStudySequence
    return dataset


def mismatched(keyword: str) -> bytes:
    dataset = instance()
    data = bytearray(part10(dataset))
    meta = {"SOPInstanceUID": dataset.SOPInstanceUID, "SOPClassUID": dataset.SOPClassUID}[keyword].encode()
    at = data.index(meta)
    data[at + len(meta) - 1] = ord("9") if data[at + len(meta) - 1] != ord("9") else ord("8")
    return bytes(data)


CASES: list[tuple[str, Callable[[], bytes], str]] = [
    ("text", lambda: b"This is no DICOM file. " * 20, "not-dicom"),
    ("empty", lambda: b"", "not-dicom"),
    ("no preamble", lambda: part10(instance())[128:], "not-dicom"),
    ("truncated pixels", lambda: part10(instance())[:-10], "truncated"),
    ("too few pixels", lambda: part10(instance(PixelData=bytes(30))), "truncated"),
    ("no study", lambda: part10(instance(StudyInstanceUID="")), "missing-uid"),
    ("instance UID mismatch", lambda: mismatched("SOPInstanceUID"), "uid-mismatch"),
    ("class mismatch", lambda: mismatched("SOPClassUID"), "sop-class-mismatch"),
    ("not a storage class", lambda: part10(instance(SOPClassUID="1.2.840.10008.1.1")), "sop-class-not-supported"),
    ("directory", lambda: part10(instance(SOPClassUID="1.2.840.10008.1.3.10")), "directory"),
    ("slope of zero", lambda: part10(instance(RescaleSlope="0", RescaleIntercept="0")), "bad-rescale"),
    ("deep", lambda: part10(nested(17)), "nested-too-deep"),
]


@pytest.mark.requirement("D6", "D12", "D29", "D45", "D46")
@pytest.mark.parametrize(("make", "code"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_refusals(make: Callable[[], bytes], code: str) -> None:
    assert refused(make()) == code


def test_valid_instance_is_described_by_its_json_model() -> None:
    dataset = instance(SpecificCharacterSet="ISO_IR 192")
    dataset.PatientName = "Müller^Jürgen"
    header = read_header(part10(dataset), LIMITS)
    assert header.sop_uid == dataset.SOPInstanceUID
    assert header.attributes["00100010"]["Value"][0]["Alphabetic"] == "Müller^Jürgen"
    assert "7FE00010" not in header.attributes
    assert header.own is False


@pytest.mark.requirement("D14", "D44")
def test_hashes_ignore_the_preamble() -> None:
    data = part10(instance())
    first = read_header(data, LIMITS)
    second = read_header(b"<script>alert(1)</script>".ljust(128) + data[128:], LIMITS)
    assert first.dataset_sha256 == second.dataset_sha256


@pytest.mark.requirement("D49")
def test_trailing_bytes_are_found() -> None:
    data = part10(instance())
    assert refused(data + b"%PDF-1.7 hidden") == "trailing-bytes"
    assert refused(data + b"<script>x</script>") == "trailing-bytes"
    assert read_header(data + bytes(512), LIMITS).own is False  # a file padded with zeros hides nothing
    padding = b"\xfc\xff\xfc\xffOB\0\0" + (4).to_bytes(4, "little") + bytes(4)
    assert read_header(data + padding, LIMITS).own is False


@pytest.mark.requirement("D45")
def test_limits_are_settings_and_name_themselves() -> None:
    with pytest.raises(Rejected, match="MAX_ELEMENTS = 5"):
        read_header(part10(instance()), HeaderLimits(max_elements=5))
    with pytest.raises(Rejected, match="MAX_SAMPLES = 10"):
        read_header(part10(instance()), HeaderLimits(max_samples=10))


@pytest.mark.requirement("D45")
def test_deflated_bomb_is_refused_by_its_inflated_size(decoder: DecodePool) -> None:
    dataset = instance()
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    data = part10(dataset)
    end = 144 + int.from_bytes(data[140:144], "little")
    squeezer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = b"".join(squeezer.compress(bytes(1024 * 1024)) for _ in range(600)) + squeezer.flush()
    with pytest.raises(Rejected, match="MAX_INFLATED_BYTES") as caught:
        decoder.header(data[:end] + body)
    assert caught.value.code == "inflated-too-large"
    assert decoder.header(part10(instance())).own is False


@pytest.mark.requirement("D46")
@pytest.mark.parametrize(
    ("uid", "fine"),
    [
        ("1.2.840.10008", True),
        ("2.25.0", True),
        ("", False),
        ("1" * 65, False),
        ("../etc", False),
        ("1..2", False),
        (".1", False),
        ("1.", False),
        ("1.2\n", False),
        ("１.2", False),
    ],
)
def test_uid_syntax(uid: str, fine: bool) -> None:
    assert valid_uid(uid) is fine


def _all_dicom_files() -> list[Path]:
    small = get_testdata_file("CT_small.dcm")
    assert isinstance(small, str)
    return sorted(Path(small).parent.rglob("*.dcm"))


def test_every_file_of_pydicom_has_an_outcome(decoder: DecodePool) -> None:
    """None crashes a child, none ends in anything but a header or a typed refusal."""
    outcomes: dict[str, int] = {}
    for path in _all_dicom_files():
        try:
            decoder.header(path.read_bytes())
            outcome = "header"
        except Rejected as error:
            outcome = error.code
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    assert outcomes["header"] >= 50
    assert not {"decode-crashed", "decode-timeout", "decode-memory", "internal"} & set(outcomes)


@pytest.mark.shared
def test_every_hostile_file_has_an_outcome(shared_data: Path, decoder: DecodePool) -> None:
    expected = {
        "bomb_deflate_2GiB.dcm": "inflated-too-large",
        "bomb_rle_65535.dcm": "too-many-pixels",
        "nested_sq_200.dcm": "nested-too-deep",
        "private_many_elems.dcm": "too-many-elements",
        "trunc_pixels.dcm": "truncated",
        "uid_path_traversal.dcm": "bad-uid",
        "uid_too_long.dcm": "bad-uid",
        "unknown_ts.dcm": "transfer-syntax-not-supported",
        "empty.dcm": "not-dicom",
        "only_dicm.dcm": "transfer-syntax-not-supported",
    }
    for path in sorted((shared_data / "dicom" / "hostile").iterdir()):
        try:
            decoder.header(path.read_bytes())
            outcome = "header"
        except Rejected as error:
            outcome = error.code
        if path.name in expected:
            assert outcome == expected[path.name], path.name
    assert decoder.header(dcm_bytes()).own is False


def dcm_bytes() -> bytes:
    found = get_testdata_file("CT_small.dcm")
    assert isinstance(found, str)
    assert dcmread(found).Modality == "CT"
    return Path(found).read_bytes()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.requirement("D45")
def test_a_killed_child_is_told_and_the_next_call_served() -> None:
    with DecodePool(workers=1) as pool:
        for _ in range(3):
            with pytest.raises(Rejected) as caught:
                pool.run(_die)
            assert caught.value.code == "decode-crashed"
        assert pool.header(part10(instance())).own is False


@pytest.mark.requirement("D45")
def test_time_and_memory_are_bounded() -> None:
    with DecodePool(workers=1, seconds=1.0, memory_bytes=256 * 2**20) as pool:
        with pytest.raises(Rejected) as caught:
            pool.run(time.sleep, 30)
        assert caught.value.code == "decode-timeout"
        with pytest.raises(Rejected) as caught:
            pool.run(bytearray, 2**30)
        assert caught.value.code == "decode-memory"
        assert pool.header(part10(instance())).own is False


def deep(levels: int, *, undefined: bool) -> bytes:
    """A data set that begins with sequences in sequences, as bytes."""
    data = part10(instance())
    start = 144 + int.from_bytes(data[140:144], "little")
    sequence, item, endless = b"\x08\x00\x10\x11SQ\0\0", b"\xfe\xff\x00\xe0", b"\xff" * 4
    if undefined:
        return data[:start] + (sequence + endless + item + endless) * levels + data[start:]
    heads, size = [], 0
    for _ in range(levels):
        heads.append(sequence + (size + 8).to_bytes(4, "little") + item + size.to_bytes(4, "little"))
        size += 20
    return data[:start] + b"".join(reversed(heads)) + data[start:]


@pytest.mark.requirement("D45")
@pytest.mark.parametrize("undefined", [True, False], ids=["of undefined length", "of said length"])
def test_a_hundred_thousand_nested_sequences(decoder: DecodePool, undefined: bool) -> None:
    data = deep(100_000, undefined=undefined)
    with pytest.raises(Rejected) as caught:
        decoder.header(data)
    assert caught.value.code == "nested-too-deep"
    if undefined:
        with pytest.raises(Rejected) as caught:
            decoder.decode(data)
        assert caught.value.code == "nested-too-deep"
    assert decoder.header(part10(instance())).own is False


@pytest.mark.requirement("D45")
def test_a_deflated_bomb_that_says_its_size_is_not_inflated_for_it() -> None:
    """One element of 2 GiB: refused from its own length, with a mebibyte inflated."""
    dataset = instance()
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    data = part10(dataset)
    end = 144 + int.from_bytes(data[140:144], "little")
    squeezer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    element = b"\xe0\x7f\x10\x00OW\0\0" + (2**31).to_bytes(4, "little")
    body = squeezer.compress(element) + squeezer.compress(bytes(2**21)) + squeezer.flush()
    tracemalloc.start()
    try:
        with pytest.raises(Rejected) as caught:
            read_header(data[:end] + body, LIMITS)
        assert tracemalloc.get_traced_memory()[1] < 16 * 2**20
    finally:
        tracemalloc.stop()
    assert caught.value.code == "inflated-too-large"


def _resident(process: int) -> int:
    status = Path(f"/proc/{process}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])


@pytest.mark.shared
@pytest.mark.requirement("D45")
def test_bombs_leave_nothing_behind(shared_data: Path) -> None:
    """Refused with a code each, in the service as in its children memory is back, and the next request is served."""
    with DecodePool(workers=1) as pool:
        pool.header(dcm_bytes())
        before = _resident(os.getpid()), _resident(pool.run(os.getpid))
        for path in sorted((shared_data / "dicom" / "hostile").glob("bomb_*.dcm")):
            with pytest.raises(Rejected) as caught:
                pool.header(path.read_bytes())
            assert caught.value.code in ("inflated-too-large", "too-many-pixels", "codestream-mismatch"), path.name
            with pytest.raises(Rejected):
                pool.decode(path.read_bytes())
        after = _resident(os.getpid()), _resident(pool.run(os.getpid))
        assert pool.header(dcm_bytes()).own is False
    assert after[0] - before[0] < 64 * 1024
    assert after[1] - before[1] < 64 * 1024
