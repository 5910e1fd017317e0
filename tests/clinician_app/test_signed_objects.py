"""What a signature leaves joins the study: its SR in ledger, ImagingStudy and DICOMweb, whoever dies meanwhile."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import psycopg
import pytest
from dicomweb_client import DICOMwebClient
from dicomweb_client.session_utils import create_session
from psycopg.types.json import Jsonb
from pydicom import dcmread
from werkzeug.serving import make_server

from ai_container.dicom_results import SourceImage, structured_report
from clinician_app.settling import keep_settling
from clinician_app.signoff_journal import Begun
from fhir_adapter import verified_sr
from fhir_adapter.client import FhirClient
from fhir_adapter.identity import IMAGING_STUDY, resource_id
from fhir_adapter.signoff import Signed, Signer
from imaging_core.blobs import BlobStore
from imaging_core.database import Pool, unit_of_work
from imaging_core.dicom.child import DecodePool
from imaging_core.ledger import intake
from imaging_core.queues import Queues
from imaging_core.settings import Settings
from imaging_core.sites import Sites
from ingestion_functions import analyse as analyse_step
from ingestion_functions import signed_objects
from ingestion_functions.register import register
from ingestion_functions.services import Services
from tests.clinician_app.conftest import READER_SCOPES, SIGNERS, Clinic, registration
from tests.clinician_app.signable import Signable, signable
from tests.clinician_app.test_signoff import _form_of, _previewed, _signed
from tests.clinician_app.token_issuer import TokenIssuer, issuing

pytestmark = pytest.mark.requirement("R6", "R8")


class Killed(BaseException):
    """The process is gone."""


@pytest.fixture(scope="module")
def issuer() -> Iterator[TokenIssuer]:
    with issuing() as opened:
        yield opened


@pytest.fixture
def clinic(make_clinic: Callable[..., Clinic], settings: Settings, charts: None, issuer: TokenIssuer) -> Clinic:
    return make_clinic(
        registration(settings.fhir_base_url, signers=SIGNERS),
        registration(issuer.base, name="tokens"),
        fhir_aliases=(issuer.base,),
    )


@pytest.fixture
def parts(
    settings: Settings, pool: Pool, blob_store: BlobStore, queues: Queues, fhir_client: FhirClient, decoder: DecodePool
) -> Iterator[Services]:
    with httpx.Client(base_url=settings.ai_url) as ai:
        yield Services(settings, Sites.from_settings(settings), blob_store, queues, pool, decoder, fhir_client, ai)


@pytest.fixture
def case(fhir_client: FhirClient, pool: Pool, blob_store: BlobStore, charts: None) -> Signable:
    """A report with its image in the ledger and the machine's own SR beside it."""
    made = signable(fhir_client, pool, blob_store)
    values = [made.header[tag]["Value"][0] for tag in ("00080018", "0020000E", "00080016")]
    with pool.connection() as connection:
        connection.execute(
            "INSERT INTO ledger.instance (sop_uid, study_uid, series_uid, sop_class_uid, transfer_syntax_uid,"
            " dataset_sha256, bytes, blob, header, registered, client)"
            " VALUES (%s, %s, %s, %s, '1.2.840.10008.1.2.1', '', 1, %s, %s, true, 'test')",
            (
                values[0],
                made.study_uid,
                *values[1:],
                f"{made.study_uid}/{values[1]}/{values[0]}.dcm",
                Jsonb(made.header),
            ),
        )
    document = structured_report(
        made._result("present", 0.83), made.report, 0, [SourceImage(values[0], values[1], values[2], made.header)]
    )
    blob_store.put("results", f"{_path(made)}/sr.dcm", document)
    return made


def _path(case: Signable) -> str:
    return next(
        str(item["value"]) for item in case.report["identifier"] if item["value"].startswith(f"{case.study_uid}/")
    )


def _name(case: Signable) -> str:
    return f"{_path(case)}/sr.signed.{case.version}.dcm"


def _notes(parts: Services, case: Signable) -> list[tuple[str, bool, str]]:
    with unit_of_work(parts.pool) as connection:
        return connection.execute(
            "SELECT blob, taken_at IS NOT NULL, fault FROM ledger.signed_object WHERE study_uid = %s ORDER BY noted_at",
            (case.study_uid,),
        ).fetchall()


def _own(parts: Services, case: Signable) -> list[dict[str, Any]]:
    with unit_of_work(parts.pool) as connection:
        rows = connection.execute(
            "SELECT sop_uid, series_uid, blob, registered FROM ledger.instance WHERE study_uid = %s AND own"
            " ORDER BY received_at",
            (case.study_uid,),
        ).fetchall()
    return [dict(zip(("sop_uid", "series_uid", "blob", "registered"), row, strict=True)) for row in rows]


def _later(owner_pool: Pool, case: Signable) -> None:
    """Let what was noted, and what was begun, be an hour old."""
    with owner_pool.connection() as connection:
        connection.execute(
            "UPDATE ledger.signed_object SET noted_at = noted_at - interval '1 hour' WHERE study_uid = %s",
            (case.study_uid,),
        )
        connection.execute(
            "UPDATE app.signoff_draft SET begun_at = begun_at - interval '1 hour' WHERE ended_at IS NULL"
        )


def _swept(parts: Services, case: Signable) -> None:
    signed_objects.take_in(parts)
    register(parts, case.study_uid)


def test_signed_taken_in_listed_and_retrieved(
    clinic: Clinic, case: Signable, parts: Services, issuer: TokenIssuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    launch = clinic.launch(case.patient, scopes=READER_SCOPES)
    assert _signed(clinic, launch, case).status_code == 303
    report = case.report
    assert _notes(parts, case) == [(_name(case), False, "")]
    _swept(parts, case)
    assert _notes(parts, case) == [(_name(case), True, "")]
    (instance,) = _own(parts, case)
    assert instance["registered"]
    document = parts.blobs.get("results", _name(case))
    assert parts.blobs.get("images", instance["blob"]) == document
    study_id = resource_id(case.study_uid, IMAGING_STUDY)
    stored = parts.fhir.read("ImagingStudy", study_id)
    assert stored is not None
    listed = {
        item["uid"]: (series["uid"], series["modality"]["code"])
        for series in stored["series"]
        for item in series["instance"]
    }
    assert listed[instance["sop_uid"]] == (instance["series_uid"], "SR")
    assert stored["numberOfInstances"] == 2
    assert case.report == report, "a signed report is not touched"

    # a viewer of another maker gets it
    server = make_server("127.0.0.1", 0, clinic.app, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    session = create_session()
    session.headers["Authorization"] = f"Bearer {issuer.token(case.patient)}"
    viewer = DICOMwebClient(f"http://127.0.0.1:{server.server_port}/dicomweb", session=session)
    retrieved = viewer.retrieve_instance(case.study_uid, instance["series_uid"], instance["sop_uid"])
    server.shutdown()
    assert retrieved == dcmread(io.BytesIO(document))
    assert retrieved.VerificationFlag == "VERIFIED"

    # once more: nothing to do, nothing to analyse, nothing written
    assert signed_objects.take_in(parts) == 0
    asked: list[str] = []
    monkeypatch.setattr(analyse_step, "_ask", lambda *_: asked.append("asked"))
    register(parts, case.study_uid)
    analyse_step.analyse(parts, case.study_uid)
    assert asked == []
    assert parts.fhir.read("ImagingStudy", study_id) == stored


@pytest.mark.parametrize("killed", ["before FHIR's answer", "before the SR is written"])
def test_a_killed_process_loses_no_sr(
    clinic: Clinic, case: Signable, parts: Services, owner_pool: Pool, killed: str
) -> None:
    launch = clinic.launch(case.patient, scopes=READER_SCOPES)
    form = _form_of(_previewed(clinic, launch, case))
    transaction = FhirClient.transaction

    def dies(self: FhirClient, entries: Any, **options: Any) -> Any:
        transaction(self, entries, **options)
        raise Killed

    def dead(*_: Any) -> None:
        raise Killed

    with pytest.MonkeyPatch.context() as patched:
        if killed == "before FHIR's answer":
            patched.setattr(FhirClient, "transaction", dies)
        else:
            patched.setattr(verified_sr, "store", dead)
        with pytest.raises(Killed):
            clinic.post(f"{launch}{case.page}/sign", {"form": form})
    assert case.report["status"] == "final"
    _later(owner_pool, case)
    assert clinic.services.desk is not None
    clinic.services.desk.settle()
    clinic.services.desk.settle()
    assert _notes(parts, case) == [(_name(case), False, "")]
    _later(owner_pool, case)
    _swept(parts, case)
    (instance,) = _own(parts, case)
    assert instance["registered"]
    made = dcmread(io.BytesIO(parts.blobs.get("images", instance["blob"])))
    assert str(made.VerifyingObserverSequence[0].VerifyingObserverName) == "Dr. Lefevre"
    # the same, byte for byte, as the app would have written it
    document = parts.blobs.get("results", _name(case))
    parts.blobs.delete("results", _name(case))
    signed = Signed(case.report, case.version, "")
    verified_sr.store(parts.fhir, parts.blobs, signed, Signer("Dr. Lefevre"))
    assert parts.blobs.get("results", _name(case)) == document


def test_while_the_app_may_be_at_it_nothing_is_made(
    clinic: Clinic, case: Signable, parts: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    launch = clinic.launch(case.patient, scopes=READER_SCOPES)
    monkeypatch.setattr(verified_sr, "store", lambda *_: None)
    _signed(clinic, launch, case)
    _swept(parts, case)
    assert _notes(parts, case) == [(_name(case), False, "")]
    assert _own(parts, case) == []


def test_an_amendment_that_overtakes_an_unsettled_signature_leaves_both(
    clinic: Clinic, case: Signable, parts: Services, owner_pool: Pool
) -> None:
    launch = clinic.launch(case.patient, scopes=READER_SCOPES)
    form = _form_of(_previewed(clinic, launch, case))
    transaction = FhirClient.transaction

    def dies(self: FhirClient, entries: Any, **options: Any) -> Any:
        transaction(self, entries, **options)
        raise Killed

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(FhirClient, "transaction", dies)
        with pytest.raises(Killed):
            clinic.post(f"{launch}{case.page}/sign", {"form": form})
    first = _name(case)
    second = clinic.launch(case.patient, scopes=READER_SCOPES, subject="dr-curie", fhir_user="Practitioner/curie")
    changed = {f"state.{case.observation['id']}": "absent"}
    assert _signed(clinic, second, case, act="amend", reason="second look", **changed).status_code == 303
    assert case.report["status"] == "amended"
    _later(owner_pool, case)
    assert clinic.services.desk is not None
    clinic.services.desk.settle()
    _later(owner_pool, case)
    assert {blob for blob, _, _ in _notes(parts, case)} == {first, _name(case)}
    _swept(parts, case)
    documents = {
        item["sop_uid"]: dcmread(io.BytesIO(parts.blobs.get("images", item["blob"]))) for item in _own(parts, case)
    }
    observers = {str(item.VerifyingObserverSequence[0].VerifyingObserverName) for item in documents.values()}
    assert observers == {"Dr. Lefevre", "Dr. Curie"}
    assert all(item["registered"] for item in _own(parts, case))
    # what the first one signed stays what it was, whatever the report says now
    states = {
        str(item.VerifyingObserverSequence[0].VerifyingObserverName): [
            code.ConceptCodeSequence[0].CodeValue
            for group in verified_sr._groups(item)
            for code in group.ContentSequence
            if code.ValueType == "CODE" and code.ConceptCodeSequence[0].CodeValue in ("52101004", "2667000")
        ]
        for item in documents.values()
    }
    assert states == {"Dr. Lefevre": ["52101004"], "Dr. Curie": ["2667000"]}


@pytest.mark.requirement("A2")
def test_a_process_that_lives_settles_beside_its_requests(
    clinic: Clinic, case: Signable, parts: Services, owner_pool: Pool
) -> None:
    launch = clinic.launch(case.patient, scopes=READER_SCOPES)
    form = _form_of(_previewed(clinic, launch, case))

    def dead(*_: Any, **__: Any) -> None:
        raise Killed

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Begun, "done", dead)
        with pytest.raises(Killed):
            clinic.post(f"{launch}{case.page}/sign", {"form": form})
    assert _notes(parts, case) == []
    _later(owner_pool, case)
    desk = clinic.services.desk
    assert desk is not None
    settled = threading.Event()

    class Watched(type(desk)):  # type: ignore[misc]  # a frozen dataclass may be subclassed
        def settle(self) -> None:
            super().settle()
            settled.set()

    over = keep_settling(Watched(desk.client, desk.blobs, desk.journal), every_s=0.01)
    assert settled.wait(20)
    over.set()
    assert _notes(parts, case) == [(_name(case), False, "")]


def test_a_rejected_report_leaves_none(clinic: Clinic, case: Signable, parts: Services) -> None:
    launch = clinic.launch(case.patient, scopes=READER_SCOPES)
    _signed(clinic, launch, case, act="reject", rejection="poor-quality")
    assert case.report["status"] == "cancelled"
    assert _notes(parts, case) == []


def test_where_the_machine_left_no_sr_there_is_nothing_to_take(
    clinic: Clinic, case: Signable, parts: Services, owner_pool: Pool
) -> None:
    parts.blobs.delete("results", f"{_path(case)}/sr.dcm")
    _signed(clinic, clinic.launch(case.patient, scopes=READER_SCOPES), case)
    _later(owner_pool, case)
    _swept(parts, case)
    assert _notes(parts, case) == [(_name(case), True, "not-found")]
    assert _own(parts, case) == []


def test_what_is_not_this_study_s_or_not_made_here_is_not_taken(
    clinic: Clinic, case: Signable, parts: Services, blob_store: BlobStore, fhir_client: FhirClient, pool: Pool
) -> None:
    _signed(clinic, clinic.launch(case.patient, scopes=READER_SCOPES), case)
    foreign = dcmread(io.BytesIO(parts.blobs.get("results", _name(case))))
    foreign.StudyInstanceUID = "2.25.1"
    out = io.BytesIO()
    foreign.save_as(out)
    parts.blobs.put("results", _name(case), out.getvalue())
    _swept(parts, case)
    assert _notes(parts, case) == [(_name(case), True, "not-dicom")]
    assert _own(parts, case) == []


@pytest.mark.requirement("A2")
def test_the_role_that_serves_pages_only_adds(page_pool: Pool, case: Signable) -> None:
    for statement in (
        "SELECT * FROM ledger.signed_object",
        "UPDATE ledger.signed_object SET taken_at = NULL",
        "DELETE FROM ledger.signed_object",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege), page_pool.connection() as connection:
            connection.execute(statement)
    with pytest.raises(psycopg.errors.CheckViolation), page_pool.connection() as connection:
        connection.execute(
            "INSERT INTO ledger.signed_object (blob, study_uid) VALUES ('2.25.9/chest/0/sr.signed.2.dcm', '2.25.8')"
        )


def test_a_study_that_another_worker_has_waits(clinic: Clinic, case: Signable, parts: Services) -> None:
    _signed(clinic, clinic.launch(case.patient, scopes=READER_SCOPES), case)
    with unit_of_work(parts.pool) as connection:
        connection.execute("SELECT 1 FROM ledger.study WHERE study_uid = %s FOR UPDATE", (case.study_uid,))
        signed_objects.take_in(parts)
        assert _own(parts, case) == []
    signed_objects.take_in(parts)
    assert len(_own(parts, case)) == 1


def test_killed_between_store_and_ledger(
    clinic: Clinic, case: Signable, parts: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    _signed(clinic, clinic.launch(case.patient, scopes=READER_SCOPES), case)

    def dead(*_: Any, **__: Any) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(intake, "add_instance", dead)
        with pytest.raises(Killed):
            signed_objects.take_in(parts)
    assert _own(parts, case) == []
    _swept(parts, case)
    (instance,) = _own(parts, case)
    assert instance["registered"]


def test_the_copy_names_what_the_sr_needs(clinic: Clinic, case: Signable, blob_store: BlobStore) -> None:
    _signed(clinic, clinic.launch(case.patient, scopes=READER_SCOPES), case)
    (name,) = [item.name for item in blob_store.list("signoffs", case.study_uid)]
    before = blob_store.get("results", _name(case))
    copy = json.loads(blob_store.get("signoffs", name))
    assert verified_sr.store_from_copy(blob_store, copy, case.version) == _name(case)
    assert blob_store.get("results", _name(case)) == before
