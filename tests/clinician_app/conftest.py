"""The clinician app against real stores: PostgreSQL as imaging_page, Azurite, a FHIR server; launches already open."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from psycopg.types.json import Jsonb

from clinician_app.app import create_app
from clinician_app.audit import AuditTrail
from clinician_app.bearer_access import BearerAccess
from clinician_app.cache import ChartCache
from clinician_app.images import ImageSource
from clinician_app.services import Services
from clinician_app.signing import SigningDesk
from clinician_app.signing_right import SignersRule, SigningRights
from clinician_app.signoff_journal import SignoffJournal
from fhir_adapter.client import FhirClient
from imaging_core.blobs import BlobStore
from imaging_core.database import Pool, open_pool
from imaging_core.dicom.child import DecodePool
from imaging_core.dicom.header import HeaderLimits, read_header
from imaging_core.settings import Settings
from smart_launch import BackendServices, Keyring, LaunchContext, Registration, SessionStore, SmartLaunch
from smart_launch.csrf import csrf_token
from tests.clinician_app.made_up_chart import (
    BRAIN,
    CHEST,
    MadeUpFinding,
    MadeUpReport,
    MadeUpStudy,
    patient,
    practitioner,
)

ALL_SCOPES = (
    "launch openid fhirUser"
    " patient/Patient.rs patient/ImagingStudy.rs patient/DiagnosticReport.rs patient/Observation.rs"
)
# What a reader's launch is granted who may ask for their own role; the token writes nothing.
READER_SCOPES = f"{ALL_SCOPES} user/Practitioner.rs user/PractitionerRole.rs"
WRITER_SCOPES = f"{READER_SCOPES} patient/DiagnosticReport.u patient/Observation.u patient/Provenance.cu"
SIGNERS = "PractitionerRole.code in http://snomed.info/sct|66862007"
MARIE, OTHER = "made-up-marie", "made-up-other"

MARIES_CHEST = MadeUpStudy(1, MARIE, "2026-11-24T09:12:00+01:00", "Chest PA", "DX", (CHEST, CHEST), "Chest", "A-1001")
MARIES_BRAIN = MadeUpStudy(2, MARIE, "2026-03-02T14:00:00+01:00", "MR shoulder", "MR", (BRAIN,), "Shoulder")
OTHERS_CHEST = MadeUpStudy(3, OTHER, "2026-11-20T08:00:00+01:00", "Chest AP", "DX", (CHEST,), "Chest", "A-2002")
MARIES_REPORT = MadeUpReport(
    MARIES_CHEST,
    (MadeUpFinding("Lung opacity", "present", 0.87),),
    conclusion="Opacity in the right lung, possible pneumonia.",
)
OTHERS_REPORT = MadeUpReport(
    OTHERS_CHEST, (MadeUpFinding("Lung opacity", "absent", 0.04),), conclusion="Nothing of the other's"
)


@dataclass
class Clinic:
    """A running app, and a browser for it."""

    app: Flask
    services: Services
    sessions: SessionStore
    ehr: Registration
    token: str
    client: FlaskClient = field(init=False)

    def __post_init__(self) -> None:
        self.client = self.app.test_client()

    def launch(
        self,
        patient_id: str | None = MARIE,
        *,
        scopes: str = ALL_SCOPES,
        subject: str = "dr-lefevre",
        ehr: Registration | None = None,
        fhir_user: str = "Practitioner/lefevre",
        **context: Any,
    ) -> str:
        """Open a launch as the callback does, put its cookie into the browser, return its path."""
        registration = ehr or self.ehr
        told = LaunchContext.from_token_response({"patient": patient_id, **context}, registration.fhir_url)
        launch_id, session_id = self.sessions.open(
            ehr=registration.name,
            iss=registration.iss,
            issuer="https://ehr.example",
            subject=subject,
            fhir_user=fhir_user,
            patient=patient_id,
            encounter=None,
            scopes=scopes,
            context=told.as_json(),
            access_token=self.token,
            refresh_token=None,
            expires_in=3600,
        )
        self.client.set_cookie(f"__Host-launch-{launch_id}", session_id, domain="localhost", secure=True)
        return f"/l/{launch_id}"

    def get(self, path: str, **options: Any) -> Any:
        """Ask for a page over TLS, as a browser in English."""
        headers = {"Accept-Language": "en", **options.pop("headers", {})}
        return self.client.get(path, base_url="https://localhost", headers=headers, **options)

    def post(self, path: str, fields: dict[str, str], **options: Any) -> Any:
        """Send a form as its page would, with the launch's own token against forgery."""
        headers = {"Accept-Language": "en", **options.pop("headers", {})}
        launch_id = path.split("/")[2]
        cookie = self.client.get_cookie(f"__Host-launch-{launch_id}", domain="localhost")
        fields = {"csrf_token": csrf_token(cookie.value) if cookie else "", **fields}
        return self.client.post(path, data=fields, base_url="https://localhost", headers=headers, **options)


@pytest.fixture(scope="session")
def page_pool(stores: Any, settings: Settings) -> Iterator[Pool]:
    """PostgreSQL as the role that serves pages."""
    with open_pool(settings, url=stores.url("imaging_page")) as opened:
        yield opened


@pytest.fixture(scope="session")
def owner_pool(stores: Any, settings: Settings) -> Iterator[Pool]:
    """PostgreSQL as the owner of the schemas."""
    with open_pool(settings, url=stores.url("imaging_owner")) as opened:
        yield opened


def _know_instance(connection: Any, study: MadeUpStudy, index: int, name: str) -> None:
    """Let the ledger hold one instance, under the made-up UIDs that its file has been given."""
    header = read_header(study.file(index), HeaderLimits())
    connection.execute(
        "INSERT INTO ledger.instance (sop_uid, study_uid, series_uid, sop_class_uid, transfer_syntax_uid,"
        " dataset_sha256, bytes, blob, header, registered, client)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, true, 'test') ON CONFLICT DO NOTHING",
        (
            header.sop_uid,
            header.study_uid,
            header.series_uid,
            header.sop_class_uid,
            header.transfer_syntax_uid,
            header.dataset_sha256,
            len(study.file(index)),
            f"{study.uid}/{study.series_uid}/{study.sop_uid(index)}.dcm",
            Jsonb(header.attributes),
        ),
    )


def know(pool: Pool, *studies: MadeUpStudy) -> None:
    """Let the ledger hold the studies, as the register step leaves them."""
    with pool.connection() as connection:
        for study in studies:
            connection.execute(
                "INSERT INTO ledger.study (study_uid, site, version, analysed_version, registered_at, subject)"
                " VALUES (%s, 'Test hospital', %s, %s, now(), %s) ON CONFLICT DO NOTHING",
                (study.uid, len(study.files), len(study.files), f"Patient/{study.patient}"),
            )
            for index, name in enumerate(study.files):
                _know_instance(connection, study, index, name)


@pytest.fixture(scope="session")
def charts(fhir_client: FhirClient, blob_store: BlobStore, pool: Pool) -> None:
    """Two patients' imaging in FHIR, Blob Storage and the ledger."""
    blob_store.ensure_containers()
    people = [
        patient(MARIE, "Dupont", ["Marie", "Élise"], "1958-04-03", "female", "4711"),
        patient(OTHER, "Otherson", ["Olaf"], "1971-09-30", "male", "4712"),
    ]
    for person, role in (("lefevre", "66862007"), ("curie", "66862007"), ("weber", "62247001")):
        people += practitioner(person, role)
    for resource in (*people, *(item.resource for item in (MARIES_CHEST, MARIES_BRAIN, OTHERS_CHEST))):
        fhir_client.update(resource)
    for report in (MARIES_REPORT, OTHERS_REPORT):
        for resource in report.resources():
            fhir_client.update(resource)
        report.put_result(blob_store)
    for study in (MARIES_CHEST, MARIES_BRAIN, OTHERS_CHEST):
        study.put_images(blob_store)
    know(pool, MARIES_CHEST, MARIES_BRAIN, OTHERS_CHEST)


def registration(base: str, **values: Any) -> Registration:
    """Return an EHR whose FHIR service is at `base`."""
    given = {
        "name": "ehr",
        "iss": base,
        "client_id": "imaging-app",
        "client_auth": "none",
        "scopes": ALL_SCOPES,
        "frame_ancestors": ("https://ehr.example",),
        **values,
    }
    return Registration(**given)


@pytest.fixture(scope="session")
def make_clinic(
    page_pool: Pool, settings: Settings, blob_store: BlobStore, decoder: DecodePool, fhir_client: FhirClient
) -> Callable[..., Clinic]:
    """Return what makes an app for given registrations."""
    keys = Keyring.parse("k1:" + "A" * 43)

    def make(*ehrs: Registration, imaging: FhirClient | None = None, **changes: Any) -> Clinic:
        chosen = settings.model_copy(update={"app_base_url": "https://localhost", **changes})
        sessions = SessionStore(page_pool, keys)
        own = imaging or fhir_client
        smart = SmartLaunch(ehrs, sessions, "https://localhost")
        services = Services(
            settings=chosen,
            pool=page_pool,
            smart=smart,
            cache=ChartCache(page_pool),
            blobs=blob_store,
            images=ImageSource(blob_store, decoder),
            audit=AuditTrail(page_pool, "test"),
            imaging=own,
            rights=SigningRights({item.name: SignersRule.parse(item.signers) for item in ehrs}),
            desk=SigningDesk(own, blob_store, SignoffJournal(page_pool)),
            bearer=BearerAccess(smart, chosen, BackendServices(ehrs)),
        )
        return Clinic(create_app(chosen, services), services, sessions, ehrs[0], settings.fhir_token.get_secret_value())

    return make


@pytest.fixture
def clinic(make_clinic: Callable[..., Clinic], settings: Settings, charts: None, owner_pool: Pool) -> Clinic:
    """An app launched from an EHR that holds its own results, with an empty cache."""
    with owner_pool.connection() as connection:
        connection.execute("TRUNCATE cache.resource, cache.reading")
    return make_clinic(registration(settings.fhir_base_url))


def replaced(value: Any, **changes: Any) -> Any:
    """Return a dataclass with changes."""
    return dataclasses.replace(value, **changes)
