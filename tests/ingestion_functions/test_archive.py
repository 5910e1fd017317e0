"""The archive step: a smaller copy beside the original, once, whatever happens in between."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from imaging_core.database import unit_of_work
from imaging_core.dicom.header import HeaderLimits, read_header
from imaging_core.errors import Rejected, Retryable
from imaging_core.ledger import rendition as ledger
from imaging_core.queues import ARCHIVES
from ingestion_functions import archive as step
from ingestion_functions import stow
from ingestion_functions.analyse import analyse
from ingestion_functions.archive import archive, due, rendition_name
from ingestion_functions.register import register
from ingestion_functions.services import Services
from tests.dicom_samples import instance, multipart, part10
from tests.ingestion_functions.conftest import Ai, Door

SMOOTH = np.add.outer(np.arange(64), np.arange(64)).astype("<u2").tobytes()


def send(door: Door, **changes: Any) -> tuple[str, bytes]:
    sent = instance(**{"Rows": 64, "Columns": 64, "PixelData": SMOOTH, **changes})
    data = part10(sent)
    assert door(stow.store, *multipart(data)).status_code in (200, 202)
    return str(sent.StudyInstanceUID), data


def row(parts: Services, study_uid: str) -> dict[str, Any]:
    with unit_of_work(parts.pool) as connection:
        found = connection.execute(
            "SELECT to_jsonb(i) FROM ledger.instance i WHERE study_uid = %s ORDER BY sop_uid LIMIT 1", (study_uid,)
        ).fetchone()
    assert found is not None
    made: dict[str, Any] = found[0]
    return made


@pytest.mark.requirement("D37", "D38")
@pytest.mark.parametrize(("syntax", "extension"), [("jpeg-ls", "jls"), ("htj2k", "htj2k")])
def test_a_copy_stands_beside_the_original(door: Door, parts: Services, syntax: Any, extension: str) -> None:
    chosen = replace(parts, settings=parts.settings.model_copy(update={"archive_syntax": syntax}))
    study_uid, data = send(door)
    archive(chosen, study_uid)
    found = row(parts, study_uid)
    assert found["rendition_state"] == "stored"
    assert found["rendition"] == rendition_name(found["blob"], syntax)
    assert found["rendition"].endswith(f".{extension}.dcm")
    copy = parts.blobs.get("images", found["rendition"])
    assert len(copy) == found["rendition_bytes"] < len(data)
    assert parts.blobs.get("images", found["blob"]) == data  # the original is what was received, for ever
    assert read_header(copy, HeaderLimits()).sop_uid == found["sop_uid"]
    assert (found["rendition_lease"], found["rendition_tries"]) == (None, 1)


def test_nothing_is_kept_that_is_not_smaller_or_can_not_be(door: Door, parts: Services) -> None:
    noise = np.random.default_rng(1).integers(0, 2**16, (64, 64), np.uint16).tobytes()
    study_uid, _ = send(door, PixelData=noise)
    archive(parts, study_uid)
    found = row(parts, study_uid)
    assert (found["rendition_state"], found["rendition"]) == ("not-smaller", None)
    study_uid, _ = send(door, BitsStored=12, HighBit=15)
    archive(parts, study_uid)
    found = row(parts, study_uid)
    assert (found["rendition_state"], found["rendition_reason"]) == ("not-applicable", "bits-not-supported")
    assert not [item for item in parts.blobs.list("images", study_uid) if item.name != found["blob"]]


def test_twice_is_once(door: Door, parts: Services) -> None:
    study_uid, _ = send(door)
    archive(parts, study_uid)
    first = row(parts, study_uid)
    etag = parts.blobs.info("images", first["rendition"]).etag
    archive(parts, study_uid)
    assert row(parts, study_uid) == first
    assert parts.blobs.info("images", first["rendition"]).etag == etag


class _Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("where", ["get", "put", "info", "record"])
def test_a_kill_between_any_two_acts_leaves_nothing_undone(
    door: Door, parts: Services, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    study_uid, _ = send(door)
    owner: Any = ledger if where == "record" else parts.blobs
    with monkeypatch.context() as patched:

        def die(*_: Any, **__: Any) -> None:
            raise _Killed

        patched.setattr(owner, where, die)
        with pytest.raises(_Killed):
            archive(parts, study_uid)
    held = row(parts, study_uid)
    assert held["rendition_state"] is None
    archive(parts, study_uid)
    assert row(parts, study_uid)["rendition_state"] is None, "another worker has it until the lease ends"
    with unit_of_work(parts.pool) as connection:
        connection.execute("UPDATE ledger.instance SET rendition_lease = now() WHERE study_uid = %s", (study_uid,))
    archive(parts, study_uid)
    found = row(parts, study_uid)
    assert found["rendition_state"] == "stored"
    blobs = [item.name for item in parts.blobs.list("images", study_uid)]
    assert sorted(blobs) == sorted([found["blob"], found["rendition"]])


def test_what_kills_its_worker_each_time_is_given_up(door: Door, parts: Services) -> None:
    study_uid, _ = send(door)
    for _ in range(ledger.MOST_TRIES):
        with unit_of_work(parts.pool) as connection:
            assert ledger.claim(connection, study_uid) is not None
            connection.execute("UPDATE ledger.instance SET rendition_lease = now() WHERE study_uid = %s", (study_uid,))
    archive(parts, study_uid)
    found = row(parts, study_uid)
    assert (found["rendition_state"], found["rendition_reason"]) == ("failed", "internal")


def test_storage_away_is_no_fault_of_the_image(door: Door, parts: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    study_uid, _ = send(door)

    def away(*_: Any, **__: Any) -> bytes:
        raise Retryable("storage-unavailable", "away")

    with monkeypatch.context() as patched:
        patched.setattr(parts.blobs, "get", away)
        archive(parts, study_uid)
    found = row(parts, study_uid)
    assert (found["rendition_state"], found["rendition_tries"]) == (None, 0)
    assert found["rendition_lease"] is not None


def test_an_image_that_cannot_be_read_has_a_typed_reason_and_its_study_goes_on(
    door: Door, parts: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    study_uid, _ = send(door)
    send(door, StudyInstanceUID=study_uid)
    compressor = step._compressor(parts.settings)
    honest, calls = compressor.archival_rendition, []

    def broken(data: bytes, syntax: Any) -> Any:
        calls.append(data)
        if len(calls) == 1:
            raise Rejected("decode-timeout", "too long")
        return honest(data, syntax)

    monkeypatch.setattr(compressor, "archival_rendition", broken)
    archive(parts, study_uid)
    with unit_of_work(parts.pool) as connection:
        states = connection.execute(
            "SELECT rendition_state, rendition_reason FROM ledger.instance WHERE study_uid = %s", (study_uid,)
        ).fetchall()
    assert sorted(states) == [("failed", "decode-timeout"), ("stored", "")]


def test_it_comes_after_the_analysis_and_the_sweep_finds_what_was_lost(
    door: Door, parts: Services, ai: Ai, monkeypatch: pytest.MonkeyPatch
) -> None:
    hints: list[tuple[str, str]] = []

    def note(queue: str, message: dict[str, Any], **_: Any) -> None:
        hints.append((queue, message["study_uid"]))

    monkeypatch.setattr(parts.queues, "send", note)
    study_uid, _ = send(door)
    eager = replace(parts, settings=parts.settings.model_copy(update={"sweep_after_s": 0.001}))
    due(eager)
    assert (ARCHIVES, study_uid) not in hints
    register(parts, study_uid)
    assert (ARCHIVES, study_uid) not in hints
    analyse(parts, study_uid)
    assert (ARCHIVES, study_uid) in hints
    hints.clear()
    assert due(eager) >= 1
    assert (ARCHIVES, study_uid) in hints
    archive(parts, study_uid)
    hints.clear()
    due(eager)
    assert (ARCHIVES, study_uid) not in hints


def test_off_means_off(door: Door, parts: Services) -> None:
    off = replace(parts, settings=parts.settings.model_copy(update={"archive_syntax": "none"}))
    study_uid, _ = send(door)
    archive(off, study_uid)
    assert due(off) == 0
    assert row(parts, study_uid)["rendition_state"] is None


def test_one_at_a_time_in_a_process(door: Door, parts: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    hints: list[str] = []
    study_uid, _ = send(door)
    monkeypatch.setattr(parts.queues, "send", lambda queue, message, **_: hints.append(queue))
    with step._one_at_a_time:
        archive(parts, study_uid)
    assert hints == [ARCHIVES]
    assert row(parts, study_uid)["rendition_tries"] == 0


def test_the_saved_bytes_are_told(door: Door, parts: Services) -> None:
    with unit_of_work(parts.pool) as connection:
        before = ledger.saved(connection)
    study_uid, data = send(door)
    archive(parts, study_uid)
    with unit_of_work(parts.pool) as connection:
        after = ledger.saved(connection)
    found = row(parts, study_uid)
    assert after.stored == before.stored + 1
    assert after.saved_bytes - before.saved_bytes == len(data) - found["rendition_bytes"]
