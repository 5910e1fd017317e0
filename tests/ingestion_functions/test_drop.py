"""Direct drop: write-only addresses, and what becomes of each file that arrives, whatever the events do."""

from __future__ import annotations

import io
import json
import threading
import zipfile
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from azure.storage.blob import BlobClient
from pydicom.data import get_testdata_file

from imaging_core.blobs import BlobStore
from imaging_core.database import unit_of_work
from imaging_core.errors import Retryable
from imaging_core.settings import load_settings
from imaging_core.sites import Site, Sites
from ingestion_functions import drop, uploads
from ingestion_functions.services import Services
from tests.dicom_samples import instance, jpeg, part10, png
from tests.end_to_end.conftest import wait_for
from tests.ingestion_functions.conftest import Door

PATIENT = {"patient_id": "D1", "birth_date": "1990-02-03", "family": "Drop"}
Arrive = Callable[[str], None]


@pytest.fixture
def arrive(parts: Services, monkeypatch: pytest.MonkeyPatch) -> Arrive:
    """The event of one blob."""
    monkeypatch.setattr(drop, "services", lambda: parts)
    return drop.arrived


@pytest.fixture
def bounded(parts: Services, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Services]:
    """Work with other settings."""

    def change(**changes: Any) -> Services:
        given = {name: getattr(parts.settings, name) for name in parts.settings.model_fields_set}
        changed = replace(parts, settings=load_settings(**{**given, **changes}))
        monkeypatch.setattr(drop, "services", lambda: changed)
        return changed

    return change


def announce(door: Door, *names: str, **more: Any) -> dict[str, Any]:
    body = {"files": [{"name": name, "bytes": 10} for name in names], **more}
    response = door(uploads.open_upload, json.dumps(body).encode(), "application/json")
    assert response.status_code == 201, response.get_body()
    found: dict[str, Any] = json.loads(response.get_body())
    return found


def put(file: dict[str, Any], data: bytes) -> str:
    """Write to the SAS as an uploader does; return the blob's name."""
    response = httpx.put(file["url"], content=data, headers={**file["headers"], "x-ms-version": "2023-11-03"})
    assert response.status_code == 201, response.text
    return httpx.URL(file["url"]).path.split("/incoming/")[1]


def state(door: Door, upload_id: str) -> dict[str, Any]:
    response = door(uploads.upload_state, method="GET", route={"upload_id": upload_id})
    found: dict[str, Any] = json.loads(response.get_body())
    return found


def outcomes(door: Door, upload_id: str) -> list[tuple[str, str | None]]:
    return [(file["outcome"], file["reason"]) for file in state(door, upload_id)["files"]]


def rows(parts: Services, name: str) -> list[tuple[Any, ...]]:
    with unit_of_work(parts.pool) as connection:
        return connection.execute(
            "SELECT outcome, reason FROM ledger.intake WHERE split_part(delivery_key, ':', 2) = %s ORDER BY 1, 2",
            (name,),
        ).fetchall()


def zipped(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


def dropped(door: Door, arrive: Arrive, data: bytes, **more: Any) -> tuple[str, str]:
    """Announce, write and process one file; return the upload and the blob's name."""
    opened = announce(door, "one", **more)
    name = put(opened["files"][0], data)
    arrive(name)
    return opened["upload_id"], name


# addresses


def test_the_address_writes_and_does_nothing_else(door: Door, parts: Services) -> None:
    first, second = announce(door, "1.dcm", "2.dcm")["files"]
    put(first, b"x")
    assert httpx.get(first["url"]).status_code == 403
    assert httpx.delete(first["url"]).status_code == 403
    container = first["url"].rsplit("/", 2)[0]
    assert httpx.get(f"{container}?restype=container&comp=list&{first['url'].split('?')[1]}").status_code == 403
    elsewhere = second["url"].split("?")[0] + "?" + first["url"].split("?")[1]
    assert httpx.put(elsewhere, content=b"x", headers=first["headers"]).status_code == 403


def test_tools_that_write_in_blocks(door: Door, parts: Services, arrive: Arrive) -> None:
    data = part10(instance())
    opened = announce(door, "large.dcm")
    blob = BlobClient.from_blob_url(
        opened["files"][0]["url"], max_single_put_size=4096, max_block_size=8192, api_version="2023-11-03"
    )
    blob.upload_blob(data)
    arrive(blob.blob_name)
    assert outcomes(door, opened["upload_id"]) == [("accepted", None)]


def test_the_address_ends(door: Door, parts: Services) -> None:
    gone = parts.blobs.upload_url("incoming", "late", timedelta(seconds=-1))
    assert httpx.put(gone, content=b"x", headers={"x-ms-blob-type": "BlockBlob"}).status_code == 403


@pytest.mark.requirement("D43")
def test_names_tell_nothing(door: Door, parts: Services) -> None:
    opened = announce(door, "Martin_Anne.dcm", patient=PATIENT)
    assert "Martin" not in opened["files"][0]["url"]
    assert "D1" not in httpx.URL(opened["files"][0]["url"]).path


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "bad-field"),
        (b"{}", "bad-field"),
        (b'{"files": []}', "bad-field"),
        (b'{"files": [{"name": "x", "bytes": 3000000000}]}', "body-too-large"),
        (
            b'{"files": [{"name": "x", "bytes": 300000000, "content_type": "application/dicom"}]}',
            "instance-too-large",
        ),
        (b'{"files": [{"name": "x", "bytes": 1}], "patient": {"patient_id": "1"}}', "bad-field"),
    ],
)
@pytest.mark.requirement("D45")
def test_refusals(door: Door, parts: Services, body: bytes, code: str) -> None:
    response = door(uploads.open_upload, body, "application/json")
    assert json.loads(response.get_body())["code"] == code


def test_an_upload_is_its_clients_own(door: Door, parts: Services) -> None:
    upload_id = announce(door, "1.dcm")["upload_id"]
    with unit_of_work(parts.pool) as connection:
        connection.execute("UPDATE ledger.upload SET client = 'other' WHERE upload_id = %s", (upload_id,))
    assert state(door, upload_id)["code"] == "not-found"


# mixed sets


@pytest.mark.requirement("D11", "D50")
def test_each_file_of_a_mixed_set_is_accounted_for(door: Door, parts: Services, arrive: Arrive) -> None:
    directory = Path(str(get_testdata_file("DICOMDIR"))).read_bytes()
    files = {
        "a.dcm": (part10(instance()), ("accepted", None)),
        "b.txt": (b"a note\n", ("rejected", "file-type-not-taken")),
        "c.png": (png(seed=21), ("accepted", None)),
        "d.dcm": (b"", ("rejected", "empty-body")),
        "e.jpg": (jpeg(seed=22), ("accepted", None)),
        "f.pdf": (b"%PDF-1.7\n...", ("rejected", "file-type-not-taken")),
        "g.exe": (b"MZ\x90\0" + bytes(500), ("rejected", "file-type-not-taken")),
        "h.sh": (b"#!/bin/sh\n", ("rejected", "file-type-not-taken")),
        "i.tif": (b"II*\0" + bytes(500), ("rejected", "file-type-not-taken")),
        "j.rar": (b"Rar!\x1a\x07\0" + bytes(500), ("rejected", "file-type-not-taken")),
        "k.bin": (bytes(range(256)) * 4, ("rejected", "not-dicom")),
        "l.dcm": (part10(instance())[:-16], ("rejected", "truncated")),
        "DICOMDIR": (directory, ("rejected", "directory")),
    }
    opened = announce(door, *files, patient=PATIENT)
    upload_id = opened["upload_id"]
    assert outcomes(door, upload_id) == [("waiting", None)] * len(files)
    assert not state(door, upload_id)["done"]
    for file in opened["files"]:
        arrive(put(file, files[file["name"]][0]))
    told = state(door, upload_id)
    assert {file["name"]: (file["outcome"], file["reason"]) for file in told["files"]} == {
        name: expected for name, (_, expected) in files.items()
    }
    assert told["done"]
    assert told["totals"] == dict(sorted(Counter(expected[0] for _, expected in files.values()).items()))
    assert all(file["detail"] for file in told["files"] if file["outcome"] == "rejected")


def test_a_picture_needs_its_patient(door: Door, parts: Services, arrive: Arrive) -> None:
    upload_id, _ = dropped(door, arrive, png(seed=23))
    assert outcomes(door, upload_id) == [("rejected", "missing-field")]


def test_pictures_of_one_drop_share_their_study(door: Door, parts: Services, arrive: Arrive) -> None:
    opened = announce(door, "1.png", "2.png", patient={**PATIENT, "patient_id": "D2"}, study={"accession": "A77"})
    for seed, file in enumerate(opened["files"]):
        arrive(put(file, png(seed=30 + seed)))
    told = state(door, opened["upload_id"])["files"]
    assert [file["outcome"] for file in told] == ["accepted", "accepted"]
    assert told[0]["study_uid"] == told[1]["study_uid"]
    assert told[0]["sop_uid"] != told[1]["sop_uid"]


def test_a_blob_that_nobody_announced(parts: Services, arrive: Arrive) -> None:
    parts.blobs.put("incoming", "by-hand.dcm", part10(instance()))
    parts.blobs.put("incoming", "by-hand.png", png(seed=24))
    arrive("by-hand.dcm")
    arrive("by-hand.png")
    assert rows(parts, "by-hand.dcm") == [("accepted", None)]
    assert rows(parts, "by-hand.png") == [("rejected", "missing-field")]


def test_a_blob_of_no_site_has_its_row(parts: Services, arrive: Arrive, monkeypatch: pytest.MonkeyPatch) -> None:
    strict = replace(parts, sites=Sites([Site("North", "urn:oid:1.2", clients=("x",), exclusive=True)]))
    monkeypatch.setattr(drop, "services", lambda: strict)
    parts.blobs.put("incoming", "of-nobody.dcm", part10(instance()))
    arrive("of-nobody.dcm")
    assert rows(parts, "of-nobody.dcm") == [("rejected", "forbidden")]


@pytest.mark.requirement("D45")
def test_sizes_are_looked_at_before_anything_is_read(
    door: Door, parts: Services, bounded: Callable[..., Services], monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = bounded(max_drop_bytes=6_000_000, max_instance_bytes=2_000_000)
    read: list[int | None] = []
    original = BlobStore.read

    def watched(self: BlobStore, *place: str, offset: int = 0, length: int | None = None) -> bytes:
        read.append(length)
        return original(self, *place, offset=offset, length=length)

    monkeypatch.setattr(BlobStore, "read", watched)
    big = part10(instance(Rows=1100, Columns=1100, PixelData=bytes(1100 * 1100 * 2)))
    huge = part10(instance(Rows=2000, Columns=2000, PixelData=bytes(2000 * 2000 * 2)))
    opened = announce(door, "big", "huge")
    for file, data in zip(opened["files"], (big, huge), strict=True):
        drop.arrived(put(file, data))
    assert outcomes(door, opened["upload_id"]) == [("rejected", "instance-too-large"), ("rejected", "body-too-large")]
    assert read == [512]
    details = [file["detail"] for file in state(door, opened["upload_id"])["files"]]
    assert "MAX_INSTANCE_BYTES = 2000000" in details[0]
    assert "MAX_DROP_BYTES = 6000000" in details[1]
    assert changed.settings.max_drop_bytes == 6_000_000


# events


def test_repeated_events_find_nothing_to_do(door: Door, parts: Services, arrive: Arrive) -> None:
    opened = announce(door, "1.txt", "2.dcm")
    names = [put(file, data) for file, data in zip(opened["files"], (b"a note", part10(instance())), strict=True)]
    for _ in range(3):
        for name in names:
            arrive(name)
    assert rows(parts, names[0]) == [("rejected", "file-type-not-taken")]
    assert rows(parts, names[1]) == [("accepted", None)]
    assert parts.blobs.exists("incoming", names[0])
    assert not parts.blobs.exists("incoming", names[1])


@pytest.mark.parametrize("picture", [False, True])
def test_two_workers_with_one_event(door: Door, parts: Services, arrive: Arrive, picture: bool) -> None:
    data = png(seed=41) if picture else part10(instance())
    opened = announce(door, "1", patient={**PATIENT, "patient_id": "D3"})
    name = put(opened["files"][0], data)
    together = threading.Barrier(6)

    def event(_: int) -> None:
        together.wait(10)
        arrive(name)

    with ThreadPoolExecutor(6) as workers:
        list(workers.map(event, range(6)))
    assert rows(parts, name) == [("accepted", None)]
    assert not parts.blobs.exists("incoming", name)
    with unit_of_work(parts.pool) as connection:
        row = connection.execute(
            "SELECT count(*) FROM ledger.instance n JOIN ledger.intake i USING (sop_uid) WHERE i.upload_id = %s",
            (opened["upload_id"],),
        ).fetchone()
    assert row == (1,)


def test_two_workers_of_whom_neither_knows_the_other(
    door: Door, parts: Services, arrive: Arrive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the claim (its connection was lost, say) the delivery's key still has one row."""
    monkeypatch.setattr(drop.ledger, "claim", lambda *_: True)
    opened = announce(door, "1")
    name = put(opened["files"][0], part10(instance()))
    together = threading.Barrier(4)

    def event(_: int) -> None:
        together.wait(10)
        arrive(name)

    with ThreadPoolExecutor(4) as workers:
        list(workers.map(event, range(4)))
    assert rows(parts, name) == [("accepted", None)]


def test_an_event_for_a_blob_that_is_gone_or_not_there_yet(door: Door, parts: Services, arrive: Arrive) -> None:
    opened = announce(door, "1.dcm")
    name = httpx.URL(opened["files"][0]["url"]).path.split("/incoming/")[1]
    arrive(name)
    assert rows(parts, name) == []
    put(opened["files"][0], part10(instance()))
    arrive(name)
    assert rows(parts, name) == [("accepted", None)]


def test_a_blob_that_was_overwritten(parts: Services, arrive: Arrive) -> None:
    """By an operator, for a SAS cannot: each version that was there when it was looked at has its row."""
    parts.blobs.put("incoming", "twice.dcm", b"a first note")
    arrive("twice.dcm")
    parts.blobs.put("incoming", "twice.dcm", part10(instance()))
    arrive("twice.dcm")
    arrive("twice.dcm")
    assert rows(parts, "twice.dcm") == [("accepted", None), ("rejected", "file-type-not-taken")]


def test_overwritten_while_it_is_read(parts: Services, arrive: Arrive, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read belongs to the ETag of the delivery's key, or nothing is done."""
    first, second = part10(instance()), part10(instance())
    parts.blobs.put("incoming", "moving.dcm", first)
    original = BlobStore.info

    def info(self: BlobStore, container: str, name: str) -> Any:
        found = original(self, container, name)
        if container == "incoming" and name == "moving.dcm":
            monkeypatch.setattr(BlobStore, "info", original)
            self.put(container, name, second)
        return found

    monkeypatch.setattr(BlobStore, "info", info)
    arrive("moving.dcm")
    assert rows(parts, "moving.dcm") == []
    assert parts.blobs.get("incoming", "moving.dcm") == second
    arrive("moving.dcm")
    assert rows(parts, "moving.dcm") == [("accepted", None)]


def test_a_crash_between_store_and_delete(
    door: Door, parts: Services, arrive: Arrive, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = announce(door, "1.dcm")
    name = put(opened["files"][0], part10(instance()))
    original = BlobStore.delete

    def delete(self: BlobStore, *place: str, etag: str = "") -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(BlobStore, "delete", delete)
    with pytest.raises(KeyboardInterrupt):
        arrive(name)
    monkeypatch.setattr(BlobStore, "delete", original)
    assert parts.blobs.exists("incoming", name)
    arrive(name)
    assert not parts.blobs.exists("incoming", name)
    assert rows(parts, name) == [("accepted", None)]


def test_an_event_that_never_came(
    door: Door, parts: Services, bounded: Callable[..., Services], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or whose tries were used up while a store was away: the sweep looks at what lies there without an outcome."""
    bounded(sweep_after_s=0.001)
    opened = announce(door, "1.dcm", "2.txt", "3.dcm")
    contents = (part10(instance()), b"a note", part10(instance()))
    names = [put(file, data) for file, data in zip(opened["files"], contents, strict=True)]

    def looked_at() -> bool:  # the storage's clock counts whole seconds: not at once
        drop.sweep()
        return bool(state(door, opened["upload_id"])["done"])

    wait_for("the sweep to see them", looked_at)
    assert outcomes(door, opened["upload_id"]) == [
        ("accepted", None),
        ("rejected", "file-type-not-taken"),
        ("accepted", None),
    ]
    drop.sweep()
    assert [rows(parts, name) for name in names] == [
        [("accepted", None)],
        [("rejected", "file-type-not-taken")],
        [("accepted", None)],
    ]


def test_a_store_that_is_away_lets_the_event_come_again(
    door: Door, parts: Services, arrive: Arrive, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = announce(door, "1.dcm")
    name = put(opened["files"][0], part10(instance()))

    def away(*_: Any, **__: Any) -> bytes:
        raise Retryable("storage-unavailable")

    monkeypatch.setattr(BlobStore, "read", away)
    with pytest.raises(Retryable):
        arrive(name)
    monkeypatch.undo()
    monkeypatch.setattr(drop, "services", lambda: parts)
    assert outcomes_in(parts, opened["upload_id"]) == []
    drop.arrived(name)
    assert outcomes_in(parts, opened["upload_id"]) == ["accepted"]


def outcomes_in(parts: Services, upload_id: str) -> list[str]:
    with unit_of_work(parts.pool) as connection:
        found = connection.execute("SELECT outcome FROM ledger.intake WHERE upload_id = %s", (upload_id,)).fetchall()
    return [row[0] for row in found]


def test_what_never_arrives_expires(door: Door, parts: Services, arrive: Arrive) -> None:
    opened = announce(door, "1.dcm", "2.dcm", "3.dcm")
    arrive(put(opened["files"][0], part10(instance())))
    put(opened["files"][1], part10(instance()))  # arrived, its event is late
    assert [outcome for outcome, _ in outcomes(door, opened["upload_id"])] == ["accepted", "waiting", "waiting"]
    with unit_of_work(parts.pool) as connection:
        connection.execute(
            "UPDATE ledger.upload SET expires_at = now() - interval '1 hour' WHERE upload_id = %s",
            (opened["upload_id"],),
        )
    told = state(door, opened["upload_id"])
    assert [file["outcome"] for file in told["files"]] == ["accepted", "waiting", "expired"]
    assert not told["done"]
    arrive(httpx.URL(opened["files"][1]["url"]).path.split("/incoming/")[1])
    told = state(door, opened["upload_id"])
    assert told["totals"] == {"accepted": 2, "expired": 1}
    assert told["done"]


# archives


def test_each_file_of_an_archive_is_a_delivery(door: Door, parts: Services, arrive: Arrive) -> None:
    same = part10(instance())
    files = {
        "disk/DICOMDIR": Path(str(get_testdata_file("DICOMDIR"))).read_bytes(),
        "disk/1.dcm": same,
        "disk/copy of 1.dcm": same,
        "disk/2.dcm": part10(instance()),
        "disk/empty/": b"",
        "disk/readme.txt": b"read me",
        "disk/viewer.exe": b"MZ" + bytes(100),
        "disk/nothing.dcm": b"",
        "disk/photo.png": png(seed=51),
        "../../etc/passwd": b"root:x:0:0",
        "inner.zip": zipped({"3.dcm": part10(instance())}),
    }
    upload_id, name = dropped(door, arrive, zipped(files), patient={**PATIENT, "patient_id": "D4"})
    told = state(door, upload_id)
    (archive,) = told["files"]
    assert (archive["outcome"], told["done"]) == ("unpacked", True)
    found = {member["name"]: (member["outcome"], member["reason"]) for member in archive["members"]}
    assert found == {
        "disk/DICOMDIR": ("rejected", "directory"),
        "disk/1.dcm": ("accepted", None),
        "disk/copy of 1.dcm": ("duplicate", None),
        "disk/2.dcm": ("accepted", None),
        "disk/readme.txt": ("rejected", "file-type-not-taken"),
        "disk/viewer.exe": ("rejected", "file-type-not-taken"),
        "disk/nothing.dcm": ("rejected", "empty-body"),
        "disk/photo.png": ("accepted", None),
        "../../etc/passwd": ("rejected", "file-type-not-taken"),
        "inner.zip": ("rejected", "archive-nested"),
    }
    assert told["totals"] == {"accepted": 3, "duplicate": 1, "rejected": 6}
    assert len(rows(parts, name)) == 10
    assert parts.blobs.exists("incoming", name)  # something of it was refused
    arrive(name)
    assert len(rows(parts, name)) == 10


def test_an_archive_of_which_all_is_stored_is_deleted(door: Door, parts: Services, arrive: Arrive) -> None:
    upload_id, name = dropped(door, arrive, zipped({f"{n}.dcm": part10(instance()) for n in range(5)}))
    assert state(door, upload_id)["totals"] == {"accepted": 5}
    assert not parts.blobs.exists("incoming", name)


def test_an_archive_goes_on_where_a_crash_stopped_it(
    door: Door, parts: Services, arrive: Arrive, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = announce(door, "1.zip")
    name = put(opened["files"][0], zipped({f"{number:02}.dcm": part10(instance()) for number in range(9)}))
    original, taken = drop.take_in, []

    def crashing(*arguments: Any) -> Any:
        if len(taken) == 4:
            raise KeyboardInterrupt
        taken.append(original(*arguments))
        return taken[-1]

    monkeypatch.setattr(drop, "take_in", crashing)
    with pytest.raises(KeyboardInterrupt):
        arrive(name)
    told = state(door, opened["upload_id"])
    assert told["totals"] == {"accepted": 4, "waiting": 5}
    assert (told["done"], told["files"][0]["outcome"]) == (False, "waiting")
    again: list[Any] = []
    monkeypatch.setattr(drop, "take_in", lambda *arguments: again.append(1) or original(*arguments))
    arrive(name)
    assert len(again) == 5
    told = state(door, opened["upload_id"])
    assert (told["totals"], told["done"]) == ({"accepted": 9}, True)


def test_an_archive_that_takes_too_long_for_one_call(
    door: Door, parts: Services, arrive: Arrive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drop, "_CALL_S", -1.0)
    upload_id, name = dropped(door, arrive, zipped({"1.dcm": part10(instance())}))
    assert state(door, upload_id)["files"][0]["outcome"] == "waiting"
    assert parts.blobs.exists("incoming", name)
    monkeypatch.setattr(drop, "_CALL_S", 60.0)
    arrive(name)
    assert state(door, upload_id)["totals"] == {"accepted": 1}


def lies(data: bytes, size: int) -> bytes:
    """Return a zip whose directory claims that its one file inflates to `size` bytes."""
    made = bytearray(zipped({"bomb": data}))
    central = made.rindex(b"PK\x01\x02")
    made[central + 24 : central + 28] = size.to_bytes(4, "little")
    return bytes(made)


def encrypted(data: bytes) -> bytes:
    made = bytearray(zipped({"secret.dcm": data}))
    central = made.rindex(b"PK\x01\x02")
    made[6] |= 1
    made[central + 8] |= 1
    return bytes(made)


@pytest.mark.parametrize(
    ("archive", "changes", "expected"),
    [
        (zipped({f"{n}": b"x" for n in range(30)}), {"max_archive_entries": 20}, "archive-too-large"),
        (zipped({"zeros": bytes(100_000_000)}), {}, "archive-too-large"),  # ratio
        (zipped({"a": bytes(3_000_000), "b": bytes(3_000_000)}), {"max_archive_bytes": 5_000_000}, "archive-too-large"),
        (zipped({})[:-1], {}, "archive-unreadable"),
        (zipped({}), {}, "empty-body"),
        (b"PK\x03\x04" + bytes(2000), {}, "archive-unreadable"),
        (zipped({"a": b"x" * 1000})[:-30], {}, "archive-unreadable"),
        (zipped({"folder/": b""}), {}, "empty-body"),
    ],
)
@pytest.mark.requirement("D45")
def test_archives_that_are_refused_whole(
    door: Door, bounded: Callable[..., Services], archive: bytes, changes: dict[str, Any], expected: str
) -> None:
    bounded(**changes)
    opened = announce(door, "1.zip")
    drop.arrived(put(opened["files"][0], archive))
    assert outcomes(door, opened["upload_id"]) == [("rejected", expected)]


@pytest.mark.parametrize(
    ("archive", "expected"),
    [
        (encrypted(b"x" * 100), "archive-encrypted"),
        (zipped({"a": b"x" * 100}, zipfile.ZIP_LZMA), "archive-unreadable"),
        (zipped({"a": b"x" * 100}, zipfile.ZIP_BZIP2), "archive-unreadable"),
        (lies(bytes(range(256)) * 40, 2**31), "instance-too-large"),
        (lies(bytes(range(256)) * 40, 100), "archive-unreadable"),
        (
            zipped({"a": bytes(range(256))}, zipfile.ZIP_STORED).replace(bytes(range(100)), bytes(100)),
            "archive-unreadable",
        ),
    ],
)
@pytest.mark.requirement("D45")
def test_files_that_are_refused_in_their_archive(
    door: Door, bounded: Callable[..., Services], archive: bytes, expected: str
) -> None:
    bounded(max_archive_ratio=10_000_000)
    opened = announce(door, "1.zip")
    drop.arrived(put(opened["files"][0], archive))
    (told,) = state(door, opened["upload_id"])["files"]
    assert [(member["outcome"], member["reason"]) for member in told["members"]] == [("rejected", expected)]


@pytest.mark.requirement("D45")
def test_a_directory_of_a_gigabyte_is_not_read(door: Door, bounded: Callable[..., Services]) -> None:
    """The end record claims a directory as long as the archive: it is refused before it is read."""
    bounded(max_archive_entries=10)
    filler = 4_000_000
    end = b"PK\x05\x06" + bytes(4) + (60000).to_bytes(2, "little") * 2
    end += filler.to_bytes(4, "little") + (0).to_bytes(4, "little") + bytes(2)
    opened = announce(door, "1.zip")
    drop.arrived(put(opened["files"][0], b"PK\x03\x04" + bytes(filler - 4) + end))
    assert outcomes(door, opened["upload_id"]) == [("rejected", "archive-too-large")]
