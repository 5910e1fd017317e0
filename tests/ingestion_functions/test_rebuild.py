"""`imaging rebuild`: a ledger of every outcome is emptied, re-created from what is left, and is the same."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from click.testing import CliRunner
from psycopg import sql
from pydicom import Dataset
from pydicom.uid import SecondaryCaptureImageStorage, generate_uid

from fhir_adapter.diagnostic_report import REPORT_SYSTEM, report_id
from fhir_adapter.identity import resource_id
from imaging_core.database import open_pool, unit_of_work
from imaging_core.dicom.child import DecodePool
from imaging_core.dicom.header import DicomHeader
from imaging_core.errors import Permanent, Rejected, Retryable
from imaging_core.ledger import holds, signed_object
from imaging_core.ledger import rebuild as ledger
from imaging_core.ledger import study as studies
from imaging_core.ledger.counts import counts
from ingestion_functions import archive, http_api, journal, quarantine, recovery, signed_objects, stow, uploads
from ingestion_functions.analyse import analyse
from ingestion_functions.rebuild import Rebuilt, Stores, rebuild, run
from ingestion_functions.register import register
from ingestion_functions.services import Services
from tests.conftest import open_folder
from tests.dicom_samples import instance, multipart, part10
from tests.ingestion_functions.conftest import Ai, Door
from tests.ingestion_functions.own_stores import OwnStores, own_stores

pytestmark = pytest.mark.requirement("D14")

_TABLES = {
    "intake": (),
    # what passes with time: when a step was last at the study, and what the next one waits for
    "study": ("created_at", "registered_at", "analysed_at", "next_try_at", "burst", "register_after", "hinted_until"),
    "instance": ("received_at", "rendition_tries", "rendition_lease"),
    "hold_resolution": ("id",),
    "quarantine_decision": (),
    "analysis": (),
    "upload": (),
    "upload_file": (),
    "act": (),
}


class Slow(DecodePool):
    """Children that never come to an end with a file: what a poison instance looks like from outside."""

    def __init__(self) -> None:
        return

    def header(self, data: bytes) -> DicomHeader:
        raise Rejected("decode-timeout", "30 s")

    def run(self, *_: Any) -> Any:
        raise Rejected("decode-timeout", "30 s")


@dataclass
class Scene:
    """A ledger with one study of each kind."""

    own: OwnStores
    parts: Services
    ai: Ai
    studies: dict[str, str] = field(default_factory=dict)

    def send(self, name: str, *files: bytes, parts: Services | None = None) -> int:
        """Send files by STOW-RS and remember the study of the first."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(http_api, "services", lambda: parts or self.parts)
            door = Door(self.parts.settings.ingest_token.get_secret_value())
            answered = door(stow.store, *multipart(*files)).status_code
        return answered

    def study(self, name: str, **changes: Any) -> Dataset:
        """Send one instance of a study of its own."""
        sent = instance(**changes)
        self.studies[name] = str(sent.StudyInstanceUID)
        self.send(name, part10(sent))
        return sent

    def steps(self, name: str) -> None:
        """Run the study's steps until there is nothing to do."""
        for _ in range(2):
            register(self.parts, self.studies[name])
            analyse(self.parts, self.studies[name])

    def resolve(self, name: str, action: holds.Action, subject: str | None = None) -> None:
        with unit_of_work(self.parts.pool) as connection:
            holds.resolve(connection, self.studies[name], action, who="admin", subject=subject, reason="asked")

    @contextmanager
    def owner(self) -> Iterator[Stores]:
        with open_pool(self.parts.settings, url=self.own.owner_url, size=2) as pool:
            parts = self.parts
            yield Stores(pool, parts.blobs, parts.decoder, parts.fhir, parts.sites, parts.settings)

    def rebuild(self, **options: Any) -> Rebuilt:
        with self.owner() as stores:
            return run(stores, **options)

    def snapshot(self) -> dict[str, Any]:
        """Return every row of the ledger without what only tells the time, and the counts."""
        found: dict[str, Any] = {}
        with unit_of_work(self.parts.pool) as connection:
            for table, passing in _TABLES.items():
                rows = connection.execute(
                    sql.SQL("SELECT to_jsonb(t) FROM {} t").format(sql.Identifier("ledger", table))
                ).fetchall()
                left_out = {"segment", "traceparent", *passing}
                found[table] = sorted(
                    json.dumps({key: value for key, value in row.items() if key not in left_out}, sort_keys=True)
                    for (row,) in rows
                )
            found["counts"] = counts(connection)
        return found


def own_object(source: Dataset) -> bytes:
    made = instance(
        SOPClassUID=SecondaryCaptureImageStorage,
        StudyInstanceUID=source.StudyInstanceUID,
        PatientID=source.PatientID,
        Modality="OT",
    )
    item = Dataset()
    item.Manufacturer = "imaging"
    made.ContributingEquipmentSequence = [item]
    return part10(made)


def answers(scene: Scene) -> None:
    """Let the AI's place find something in studies that are called so, and leave report and objects."""
    objects: dict[str, bytes] = {}

    def answer(body: dict[str, Any]) -> dict[str, Any]:
        uid = body["study_uid"]
        fits = {scene.studies.get(name) for name in ("analysed", "redriven", "linked")}
        if uid not in fits:
            reasons = [{"sop_uid": item["sop_uid"], "reason": "no-model"} for item in body["instances"]]
            return {"study_uid": uid, "model": None, "findings": [], "not_analysed": reasons, "resources": []}
        report = report_id(uid, "chest", 0)
        if scene.parts.fhir.read("DiagnosticReport", report) is None:
            number = {"system": REPORT_SYSTEM, "value": f"{uid}/chest/0"}
            made = {"resourceType": "DiagnosticReport", "id": report, "identifier": [number]}
            scene.parts.fhir.update({**made, "status": "preliminary", "code": {"text": "chest"}})
        if uid not in objects:
            source = scene.parts.blobs.get("images", body["instances"][0]["blob"])
            header = scene.parts.decoder.header(source)
            like = instance(StudyInstanceUID=uid, PatientID=header.attributes["00100020"].get("Value", [""])[0])
            objects[uid] = own_object(like)
        scene.parts.blobs.put("results", f"{uid}/chest/0/sc.dcm", objects[uid])
        return {
            "study_uid": uid,
            "task": "chest",
            "model": {"name": "chest", "version": "1"},
            "findings": [{"code": "opacity", "state": "present"}],
            "not_analysed": [],
            "artifacts": {"sc.dcm": f"results/{uid}/chest/0/sc.dcm"},
            "resources": [f"DiagnosticReport/{report}"],
        }

    scene.ai.answer = answer


@pytest.fixture(scope="module")
def own() -> Iterator[OwnStores]:
    with own_stores(open_folder()) as started:
        yield started


@pytest.fixture
def scene(own: OwnStores, ai: Ai) -> Iterator[Scene]:
    """Every outcome that a delivery can have, and every decision about one."""
    with own.services(ai.url) as parts:
        made = Scene(own, parts, ai)
        answers(made)
        plain = made.study("plain")
        made.steps("plain")
        made.send("again", part10(plain))
        made.send("rejected", b"no DICOM at all")
        plain.PatientName = "Other^Content"
        made.send("conflict", part10(plain))
        plain.PatientName = "Third^Content"
        made.send("discarded", part10(plain))
        made.study("analysed", Modality="DX")
        made.steps("analysed")
        for name in ("held", "linked", "created", "refused"):
            made.study(name, PatientID="")
            register(parts, made.studies[name])
        target = parts.fhir.update({"resourceType": "Patient", "id": uuid.uuid4().hex, "name": [{"family": "Doe"}]})
        made.resolve("linked", "link", f"Patient/{target['id']}")
        made.resolve("created", "create")
        made.resolve("refused", "reject")
        for name in ("linked", "created", "refused"):
            made.steps(name)
        for name in ("failed", "redriven"):
            made.study(name)
            register(parts, made.studies[name])
            ai.status = 400
            analyse(parts, made.studies[name])
            ai.status = 200
        with unit_of_work(parts.pool) as connection:
            studies.redrive(connection, made.studies["redriven"], who="admin")
        made.steps("redriven")
        poison = instance()
        made.studies["released"] = str(poison.StudyInstanceUID)
        made.send("poison", part10(poison), parts=replace(parts, decoder=Slow()))
        with unit_of_work(parts.pool) as connection:
            waiting = {str(row["reason"]): row["intake_id"] for row in quarantine.ledger.quarantined(connection)}
        quarantine.decide(parts, waiting["decode-timeout"], "release", who="admin", reason="limit raised", client="t")
        quarantine.decide(parts, waiting["conflicting-content"], "discard", who="admin", reason="a copy", client="t")
        made.steps("released")
        made.study("archived", Rows=64, Columns=64, PixelData=bytes(2 * 64 * 64))
        made.steps("archived")
        archive.archive(parts, made.studies["archived"])
        made.study("unregistered")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(http_api, "services", lambda: parts)
            wanted = json.dumps({"files": [{"name": "a.dcm", "bytes": 10}]}).encode()
            door = Door(parts.settings.ingest_token.get_secret_value())
            assert door(uploads.open_upload, wanted, "application/json").status_code == 201
        yield made


def versions(scene: Scene) -> dict[str, str]:
    """Return the version of everything on the FHIR service."""
    kinds = ("Patient", "ImagingStudy", "DiagnosticReport", "Endpoint")
    return {
        f"{kind}/{found['id']}": found["meta"]["versionId"]
        for kind in kinds
        for found in scene.parts.fhir.search(kind, {"_count": "200"})
    }


@pytest.mark.requirement("D15", "P4", "R8")
def test_the_rebuilt_ledger_is_the_same(scene: Scene) -> None:
    before, resources = scene.snapshot(), versions(scene)
    states = before["counts"]
    assert min(states[name] for name in ("accepted", "duplicate", "rejected", "quarantined", "held")) > 0
    assert min(states[name] for name in ("registered", "analysed", "no_model", "failed", "pending")) > 0
    assert any('"rendition_state": "stored"' in row for row in before["instance"])
    result = scene.rebuild()
    assert result.faults == []
    assert result.recovered == 0
    assert scene.snapshot() == before
    assert versions(scene) == resources
    # and history goes on: what comes now is later than what was, and nothing is shipped twice
    assert journal.ship(scene.parts.pool, scene.parts.blobs) == 0
    scene.study("later")
    assert journal.ship(scene.parts.pool, scene.parts.blobs) == 1


@pytest.mark.requirement("D15")
def test_what_the_journal_lacks_is_told_by_the_files(scene: Scene) -> None:
    journal.ship(scene.parts.pool, scene.parts.blobs)
    known = set(journal.blobs_of(scene.parts.blobs))
    sent = scene.study("late")
    sent.PatientName = "Late^Conflict"
    scene.send("conflict", part10(sent))
    scene.steps("late")
    before = scene.snapshot()
    # the database is lost before the next shipment: the last minutes are in no journal
    with scene.owner() as stores, unit_of_work(stores.pool) as connection:
        ledger.close(connection)
        ledger.move_to(connection, "empty")
    result = scene.rebuild()
    assert set(journal.blobs_of(scene.parts.blobs)) == known
    assert (result.recovered, result.faults) == (2, [])
    after = scene.snapshot()
    for name in ("accepted", "quarantined", "registered", "held", "failed", "deliveries"):
        assert after["counts"][name] == before["counts"][name]
    late = scene.studies["late"]
    assert [row for row in after["instance"] if late in row] == [row for row in before["instance"] if late in row]
    # the level-triggered steps close what is left
    scene.steps("late")
    assert scene.snapshot()["counts"] == before["counts"]
    # what was recovered is history too
    assert journal.ship(scene.parts.pool, scene.parts.blobs) >= 2


@pytest.mark.requirement("I1", "R7")
def test_a_fhir_service_of_an_older_day_is_caught_up(scene: Scene) -> None:
    uid = scene.studies["analysed"]
    study, report = (
        f"ImagingStudy/{resource_id(uid, 'imaging-study')}",
        f"DiagnosticReport/{report_id(uid, 'chest', 0)}",
    )
    before = scene.snapshot()["counts"]
    for name in (report, study):
        remove(scene, name)
    scene.rebuild()
    assert scene.parts.fhir.read(*study.split("/")) is None  # a rebuild writes nothing there
    with unit_of_work(scene.parts.pool) as connection:
        to_register, _ = studies.unfinished(connection, 0)
    assert uid in to_register
    scene.steps("analysed")
    assert scene.parts.fhir.read(*study.split("/")) is not None
    assert scene.parts.fhir.read(*report.split("/")) is not None
    assert scene.snapshot()["counts"] == before


def remove(scene: Scene, reference: str) -> None:
    """Delete a resource, as an older backup would lack it."""
    http = scene.parts.fhir._http
    token = scene.parts.settings.fhir_token.get_secret_value()
    answer = http.delete(f"{scene.parts.fhir.base_url}/{reference}", headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code in (200, 204)


@pytest.mark.requirement("R6", "R7")
def test_lost_signatures_come_back_and_signed_reports_are_not_touched(scene: Scene) -> None:
    uid = scene.studies["analysed"]
    lost, kept = report_id(uid, "chest", 0), report_id(uid, "other", 0)
    for id_, task in ((lost, "chest"), (kept, "other")):
        signed = {"resourceType": "DiagnosticReport", "id": id_, "status": "final", "code": {"text": "signed"}}
        copy = {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": signed}]}
        scene.parts.blobs.put("signoffs", f"{uid}/{task}/0/1-x-20240101.json", json.dumps(copy).encode())
        voided = {**copy, "entry": [{"resource": {**signed, "status": "amended"}}]}
        scene.parts.blobs.put("signoffs", f"{uid}/{task}/0/2-y-20240102.json", json.dumps(voided).encode())
        scene.parts.blobs.put("signoffs", f"{uid}/{task}/0/2-y-20240102.json.void", b"")
    later = {"resourceType": "DiagnosticReport", "id": kept, "status": "corrected", "code": {"text": "signed later"}}
    scene.parts.fhir.update(later)
    result = scene.rebuild()
    assert result.signatures == 1
    restored, untouched = (
        scene.parts.fhir.read("DiagnosticReport", lost),
        scene.parts.fhir.read("DiagnosticReport", kept),
    )
    assert restored is not None
    assert untouched is not None
    assert restored["status"] == "final"
    assert (untouched["status"], untouched["code"]["text"]) == ("corrected", "signed later")


def test_a_rebuild_that_was_killed_goes_on(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    before = scene.snapshot()

    class Killed(Exception):
        pass

    def killer(killed_in: str) -> Callable[[str, int], None]:
        def tell(phase: str, _number: int) -> None:
            if phase == killed_in:
                raise Killed

        return tell

    for killed_in in ("ship", "empty", "deliveries", "images", "decisions", "fhir"):
        with pytest.raises(Killed):
            scene.rebuild(tell=killer(killed_in))
        # nobody works on half a ledger: intake answers 503
        assert scene.send("closed", part10(instance())) == 503
    with pytest.raises(Retryable, match="ledger-unavailable"), unit_of_work(scene.parts.pool) as connection:
        connection.execute("SELECT 1 FROM ledger.study")
    monkeypatch.setattr(recovery, "_CHUNK", 1)
    scene.rebuild()
    assert scene.snapshot() == before


def test_only_the_owner_may_empty_the_ledger(scene: Scene) -> None:
    before = scene.snapshot()
    parts = scene.parts
    with pytest.raises(Permanent, match="imaging_owner"):
        run(Stores(parts.pool, parts.blobs, parts.decoder, parts.fhir, parts.sites, parts.settings))
    assert scene.snapshot() == before


def test_a_file_that_cannot_be_read_any_more_is_named(scene: Scene) -> None:
    scene.parts.blobs.put("images", f"{generate_uid()}/{generate_uid()}/{generate_uid()}.dcm", b"damaged")
    result = scene.rebuild()
    assert [code for code, _ in result.faults] == ["not-dicom"]
    for _, name in result.faults:
        scene.parts.blobs.delete(*name.split("/", 1))


def test_the_command_asks_shows_progress_and_tells_the_counts(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGING_DATA_DIR", str(scene.own.folder))
    before = scene.snapshot()
    said_no = CliRunner().invoke(rebuild, input="n\n")
    assert said_no.exit_code == 1
    assert scene.snapshot() == before
    done = CliRunner().invoke(rebuild, ["--yes"])
    assert done.exit_code == 0, done.output
    assert f"accepted {before['counts']['accepted']}" in done.output
    assert scene.snapshot() == before


@pytest.mark.requirement("R6", "R8")
def test_the_srs_of_signed_reports_come_back(scene: Scene) -> None:
    study_uid = scene.studies["analysed"]
    path = f"{study_uid}/signed/0"
    source = scene.parts.decoder.header(
        next(
            scene.parts.blobs.get("images", info.name)
            for info in scene.parts.blobs.list("images", f"{study_uid}/")
            if info.name.count("/") == 2
        )
    )
    patient = source.attributes["00100020"]["Value"][0]
    for version in (2, 3):
        document = own_object(instance(StudyInstanceUID=study_uid, PatientID=patient))
        scene.parts.blobs.put("results", f"{path}/sr.signed.{version}.dcm", document)
        copy = {"resourceType": "Bundle", "entry": [{"resource": {"resourceType": "DiagnosticReport", "id": "0"}}]}
        scene.parts.blobs.put("signoffs", f"{path}/{version - 1}-x-2024010{version}.json", json.dumps(copy).encode())
    signed = {"resourceType": "DiagnosticReport", "id": report_id(study_uid, "signed", 0), "status": "amended"}
    signed |= {"code": {"text": "signed"}, "identifier": [{"system": REPORT_SYSTEM, "value": path}]}
    scene.parts.fhir.update(signed)
    with scene.owner() as stores, unit_of_work(stores.pool) as connection:
        signed_object.note(connection, signed_object.SignedObject(study_uid, f"{path}/sr.signed.2.dcm"))
    assert signed_objects.take_in(scene.parts) == 1
    register(scene.parts, study_uid)
    before = scene.snapshot()
    # the database is lost, with what was not taken in yet: its note and that of what was
    with scene.owner() as stores, unit_of_work(stores.pool) as connection:
        connection.execute("TRUNCATE ledger.signed_object")
    scene.rebuild()
    assert scene.snapshot() == before, "what was taken in is an instance of its own right"
    assert signed_objects.take_in(scene.parts) == 1, "the other one"
    register(scene.parts, study_uid)
    # and where the notes are left: nothing is lost, nothing is doubled
    after = scene.snapshot()
    scene.rebuild()
    assert scene.snapshot() == after
    assert signed_objects.take_in(scene.parts) == 0
    with unit_of_work(scene.parts.pool) as connection:
        found = connection.execute(
            "SELECT blob FROM ledger.signed_object WHERE study_uid = %s AND taken_at IS NOT NULL AND fault = ''"
            " ORDER BY blob",
            (study_uid,),
        ).fetchall()
    assert [name for (name,) in found] == [f"{path}/sr.signed.{version}.dcm" for version in (2, 3)]


@pytest.mark.requirement("R6", "R8")
def test_an_sr_that_nobody_had_made_is_noted_again(scene: Scene) -> None:
    study_uid = scene.studies["analysed"]
    path = f"{study_uid}/unmade/0"
    signed = {"resourceType": "DiagnosticReport", "id": report_id(study_uid, "unmade", 0), "status": "final"}
    signed |= {"code": {"text": "signed"}, "identifier": [{"system": REPORT_SYSTEM, "value": path}]}
    stored = scene.parts.fhir.update(signed)
    copy = {"resourceType": "Bundle", "entry": [{"resource": signed}]}
    scene.parts.blobs.put("signoffs", f"{path}/1-x-20240101.json", json.dumps(copy).encode())
    scene.rebuild()
    with unit_of_work(scene.parts.pool) as connection:
        waiting = {item.blob: item for item in signed_object.waiting(connection)}
    version = stored["meta"]["versionId"]
    item = waiting[f"{path}/sr.signed.{version}.dcm"]
    assert (item.copy, item.version_id) == (f"{path}/1-x-20240101.json", version)
