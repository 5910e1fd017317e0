"""DICOMweb read by a real client, and by hand: what is found, what is told, and never another patient's."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from dicomweb_client import DICOMwebClient
from dicomweb_client.session_utils import create_session
from joserfc.jwk import ECKey, OctKey
from PIL import Image
from pydicom import dcmread
from pydicom.data import get_testdata_file
from werkzeug.serving import make_server

from clinician_app.bearer_access import BearerAccess
from clinician_app.instance_parts import bulk_data, frames, metadata
from imaging_core.blobs import BlobStore
from imaging_core.database import Pool
from imaging_core.errors import Rejected
from imaging_core.settings import Settings
from tests.clinician_app.conftest import (
    ALL_SCOPES,
    MARIE,
    MARIES_BRAIN,
    MARIES_CHEST,
    OTHER,
    OTHERS_CHEST,
    Clinic,
    registration,
)
from tests.clinician_app.token_issuer import TokenIssuer, issuing

CHEST_PATH = f"/studies/{MARIES_CHEST.uid}/series/{MARIES_CHEST.series_uid}"
IMAGE = f"{CHEST_PATH}/instances/{MARIES_CHEST.sop_uid()}"


@pytest.fixture(scope="module")
def issuer() -> Iterator[TokenIssuer]:
    with issuing() as opened:
        yield opened


@pytest.fixture
def clinic(make_clinic: Callable[..., Clinic], settings: Settings, charts: None, issuer: TokenIssuer) -> Clinic:
    """An app that takes tokens of one EHR, and launches from the imaging service itself."""
    return make_clinic(
        registration(settings.fhir_base_url),
        registration(issuer.base, name="tokens"),
        fhir_aliases=(issuer.base,),
    )


@pytest.fixture
def marie(issuer: TokenIssuer) -> dict[str, str]:
    return {"Authorization": f"Bearer {issuer.token(MARIE)}"}


@pytest.fixture
def viewer(clinic: Clinic, issuer: TokenIssuer) -> Iterator[DICOMwebClient]:
    """`dicomweb-client` with a token for Marie's images."""
    server = make_server("127.0.0.1", 0, clinic.app, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    session = create_session()
    session.headers["Authorization"] = f"Bearer {issuer.token(MARIE)}"
    yield DICOMwebClient(f"http://127.0.0.1:{server.server_port}/dicomweb", session=session)
    server.shutdown()


def test_a_client_finds_and_reads_everything(viewer: DICOMwebClient) -> None:
    studies = viewer.search_for_studies()
    assert {item["0020000D"]["Value"][0] for item in studies} == {MARIES_CHEST.uid, MARIES_BRAIN.uid}
    chest = next(item for item in studies if item["0020000D"]["Value"][0] == MARIES_CHEST.uid)
    assert chest["00080061"]["Value"] == ["DX"]
    assert chest["00201206"]["Value"] == [1]
    assert chest["00201208"]["Value"] == [2]
    assert chest["00080056"]["Value"] == ["ONLINE"]
    assert chest["00081190"]["Value"][0].endswith(f"/dicomweb/studies/{MARIES_CHEST.uid}")
    (series,) = viewer.search_for_series(MARIES_CHEST.uid)
    assert series["0020000E"]["Value"] == [MARIES_CHEST.series_uid]
    assert series["00201209"]["Value"] == [2]
    instances = viewer.search_for_instances(MARIES_CHEST.uid, MARIES_CHEST.series_uid)
    assert [item["00080018"]["Value"][0] for item in instances] == [MARIES_CHEST.sop_uid(0), MARIES_CHEST.sop_uid(1)]
    assert instances[0]["00280010"]["Value"] == [1955]
    assert len(viewer.search_for_series()) == 2
    assert len(viewer.search_for_instances()) == 3
    described = viewer.retrieve_instance_metadata(MARIES_CHEST.uid, MARIES_CHEST.series_uid, MARIES_CHEST.sop_uid())
    assert described["7FE00010"]["BulkDataURI"].endswith(f"{IMAGE}/bulkdata/7FE00010")
    assert len(viewer.retrieve_study_metadata(MARIES_CHEST.uid)) == 2
    assert len(viewer.retrieve_series_metadata(MARIES_CHEST.uid, MARIES_CHEST.series_uid)) == 2
    dataset = viewer.retrieve_instance(MARIES_CHEST.uid, MARIES_CHEST.series_uid, MARIES_CHEST.sop_uid())
    assert dataset == dcmread(io.BytesIO(MARIES_CHEST.file(0)))
    assert len(viewer.retrieve_series(MARIES_CHEST.uid, MARIES_CHEST.series_uid)) == 2
    assert [item.SOPInstanceUID for item in viewer.retrieve_study(MARIES_BRAIN.uid)] == [MARIES_BRAIN.sop_uid()]
    (frame,) = viewer.retrieve_instance_frames(MARIES_CHEST.uid, MARIES_CHEST.series_uid, MARIES_CHEST.sop_uid(), [1])
    assert np.array_equal(np.frombuffer(frame, "<u2").reshape(1955, 1841), dataset.pixel_array)
    rendered = viewer.retrieve_instance_rendered(
        MARIES_CHEST.uid, MARIES_CHEST.series_uid, MARIES_CHEST.sop_uid(), media_types=("image/png",)
    )
    assert Image.open(io.BytesIO(rendered)).size == (1841, 1955)


@pytest.mark.requirement("S70", "XH11")
def test_nothing_of_another_patient_s(viewer: DICOMwebClient, clinic: Clinic, marie: dict[str, str]) -> None:
    assert viewer.search_for_studies(search_filters={"StudyInstanceUID": OTHERS_CHEST.uid}) == []
    assert viewer.search_for_studies(search_filters={"PatientID": OTHER}) == []
    base = f"/studies/{OTHERS_CHEST.uid}"
    series = f"{base}/series/{OTHERS_CHEST.series_uid}"
    instance = f"{series}/instances/{OTHERS_CHEST.sop_uid()}"
    for path in (base, series, instance):
        for further in ("", "/metadata"):
            assert clinic.get(f"/dicomweb{path}{further}", headers=marie).status_code == 404
    for further in ("/rendered", "/frames/1", "/frames/1/rendered", "/bulkdata/7FE00010"):
        assert clinic.get(f"/dicomweb{instance}{further}", headers=marie).status_code == 404
    # another patient's instance under one's own study
    mixed = f"/dicomweb{CHEST_PATH}/instances/{OTHERS_CHEST.sop_uid()}"
    assert clinic.get(mixed, headers=marie).status_code == 404
    for path in (f"{base}/series", f"{base}/instances", f"{series}/instances"):
        assert clinic.get(f"/dicomweb{path}", headers=marie).status_code == 204


@pytest.mark.requirement("S68")
@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://evil.example"},
        {"iss": None},
        {"aud": "https://another-service.example"},
        {"aud": None},
        {"exp": int(time.time()) - 3600},
        {"exp": None},
        {"exp": int(time.time()) + 400 * 24 * 3600},
        {"iat": int(time.time()) + 3600},
        {"nbf": int(time.time()) + 3600},
        {"nonce": "an id_token"},
    ],
)
def test_a_token_that_is_not_for_us(clinic: Clinic, issuer: TokenIssuer, claims: dict[str, Any]) -> None:
    headers = {"Authorization": f"Bearer {issuer.token(MARIE, **claims)}"}
    answer = clinic.get("/dicomweb/studies", headers=headers)
    assert answer.status_code == 401
    assert answer.mimetype == "application/problem+json"
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.requirement("XD1", "XD2", "XD4")
def test_a_token_that_the_issuer_has_not_signed(clinic: Clinic, issuer: TokenIssuer) -> None:
    from joserfc import jwt

    foreign = issuer.token(MARIE, key=ECKey.generate_key("P-256", {"kid": "one"}))
    claims = {"iss": issuer.base, "aud": issuer.base, "exp": int(time.time()) + 60, "iat": int(time.time())}
    shared = jwt.encode({"alg": "HS256", "kid": "one"}, claims, OctKey.import_key("k" * 32), algorithms=["HS256"])
    unsigned = issuer.token(MARIE).rpartition(".")[0] + "."
    own_key = issuer.token(MARIE, header={"jwk": issuer.key.as_dict(private=False)})
    for token in (foreign, shared, unsigned, own_key, "opaque", "a.b.c", "", "é"):
        answer = clinic.get(
            "/dicomweb/studies", headers={"Authorization": f"Bearer {token}".encode().decode("latin-1")}
        )
        assert answer.status_code == 401, token
    assert clinic.get("/dicomweb/studies").status_code == 401
    assert clinic.get("/dicomweb/studies", headers={"Authorization": "Basic eDp5"}).status_code == 401


@pytest.mark.requirement("S50", "S51")
@pytest.mark.parametrize(
    ("patient", "claims"),
    [
        ("", {}),
        (MARIE, {"patient": None}),
        (f"{MARIE},{OTHER}", {}),
        ("*", {}),
        (MARIE, {"scope": "patient/Patient.rs patient/DiagnosticReport.rs"}),
        (MARIE, {"scope": "patient/ImagingStudy.r"}),
        (MARIE, {"scope": ""}),
        (MARIE, {"scope": "system/ImagingStudy.rs"}),
    ],
)
def test_a_token_without_the_right(clinic: Clinic, issuer: TokenIssuer, patient: str, claims: dict[str, Any]) -> None:
    headers = {"Authorization": f"Bearer {issuer.token(patient, **claims)}"}
    assert clinic.get("/dicomweb/studies", headers=headers).status_code == 403


@pytest.mark.requirement("S70", "XE8")
def test_a_token_of_an_ehr_elsewhere_names_its_own_patients(
    make_clinic: Callable[..., Clinic], settings: Settings, issuer: TokenIssuer, charts: None
) -> None:
    clinic = make_clinic(registration(settings.fhir_base_url), registration(issuer.base, name="elsewhere"))
    headers = {"Authorization": f"Bearer {issuer.token(MARIE)}"}
    assert clinic.get("/dicomweb/studies", headers=headers).status_code == 401


@pytest.mark.requirement("XB8", "XH11")
def test_a_page_s_session_reads_with_the_page_s_rights(clinic: Clinic) -> None:
    launch = clinic.launch()
    found = clinic.get(f"{launch}/dicomweb/studies")
    assert {item["0020000D"]["Value"][0] for item in found.json} == {MARIES_CHEST.uid, MARIES_BRAIN.uid}
    assert found.json[0]["00081190"]["Value"][0].startswith(f"https://localhost{launch}/dicomweb/studies/")
    assert clinic.get(f"{launch}/dicomweb{IMAGE}/rendered").mimetype == "image/jpeg"
    assert clinic.get(f"/dicomweb{IMAGE}/rendered").status_code == 401, "a cookie is no token"
    without = clinic.launch(scopes=ALL_SCOPES.replace("patient/ImagingStudy.rs", ""), subject="no studies")
    assert clinic.get(f"{without}/dicomweb/studies").status_code == 204
    assert clinic.get(f"{without}/dicomweb{IMAGE}").status_code == 404
    clinic.client = clinic.app.test_client()
    assert clinic.get(f"{launch}/dicomweb/studies").status_code == 401


@pytest.mark.requirement("A1")
def test_what_is_retrieved_is_put_on_record(clinic: Clinic, marie: dict[str, str], pool: Pool) -> None:
    with pool.connection() as connection:
        before = connection.execute("SELECT coalesce(max(id), 0) FROM ledger.audit_outbox").fetchone()
    for path in ("/studies", f"/studies/{MARIES_CHEST.uid}", f"{IMAGE}/rendered"):
        assert clinic.get(f"/dicomweb{path}", headers=marie).status_code == 200
    with pool.connection() as connection:
        events = [
            row[0]
            for row in connection.execute("SELECT event FROM ledger.audit_outbox WHERE id > %s ORDER BY id", before)
        ]
    assert [item["outcomeDesc"] for item in events] == ["Patient's imaging searched", "Image viewed", "Image viewed"]
    assert events[0]["agent"][0]["who"]["identifier"]["value"] == "viewer"
    assert events[1]["entity"][1]["what"] == {"identifier": {"value": f"urn:oid:{MARIES_CHEST.uid}"}}
    assert events[2]["agent"][2]["who"]["identifier"]["value"] == "a-viewer"


@pytest.mark.requirement("A2")
def test_without_a_record_nothing_is_retrieved(clinic: Clinic, marie: dict[str, str], owner_pool: Pool) -> None:
    with owner_pool.connection() as connection:
        connection.execute("REVOKE INSERT ON ledger.audit_outbox FROM imaging_page")
    try:
        for path in ("/studies", f"/studies/{MARIES_CHEST.uid}", f"{IMAGE}/metadata", f"{IMAGE}/frames/1"):
            assert clinic.get(f"/dicomweb{path}", headers=marie).status_code == 503
    finally:
        with owner_pool.connection() as connection:
            connection.execute("GRANT INSERT ON ledger.audit_outbox TO imaging_page")


@pytest.mark.requirement("D44")
def test_files_leave_without_their_preamble(clinic: Clinic, marie: dict[str, str], blob_store: BlobStore) -> None:
    stored = blob_store.get("images", f"{MARIES_CHEST.uid}/{MARIES_CHEST.series_uid}/{MARIES_CHEST.sop_uid()}.dcm")
    assert stored.startswith(b"<script>")
    answer = clinic.get(f"/dicomweb{IMAGE}", headers={**marie, "Accept": "application/dicom"})
    assert answer.mimetype == "application/dicom"
    assert answer.data == bytes(128) + stored[128:]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Content-Disposition"] == f'attachment; filename="{MARIES_CHEST.sop_uid()}.dcm"'
    assert b"<script>" not in clinic.get(f"/dicomweb/studies/{MARIES_CHEST.uid}", headers=marie).data


@pytest.mark.requirement("D8")
def test_a_linked_study_is_served_with_the_patient_it_is_linked_to(
    clinic: Clinic, marie: dict[str, str], pool: Pool
) -> None:
    with pool.connection() as connection:
        connection.execute(
            "INSERT INTO ledger.hold_resolution (study_uid, action, subject, who) VALUES (%s, 'link', %s, 'admin')",
            (MARIES_BRAIN.uid, f"Patient/{MARIE}"),
        )
    try:
        path = f"/dicomweb/studies/{MARIES_BRAIN.uid}"
        found = clinic.get(f"/dicomweb/studies?StudyInstanceUID={MARIES_BRAIN.uid}", headers=marie).json[0]
        assert found["00100020"]["Value"] == ["4711"]
        assert found["00100010"]["Value"] == [{"Alphabetic": "Dupont^Marie Élise"}]
        (described,) = clinic.get(f"{path}/metadata", headers=marie).json
        assert described["00100020"]["Value"] == ["4711"]
        assert described["04000561"]["Value"][0]["04000550"]["Value"][0]["00100020"]["Value"] == [MARIE]
        answer = clinic.get(
            f"{path}/series/{MARIES_BRAIN.series_uid}/instances/{MARIES_BRAIN.sop_uid()}",
            headers={**marie, "Accept": "application/dicom"},
        )
        dataset = dcmread(io.BytesIO(answer.data))
        assert dataset.PatientID == "4711"
        assert dataset.OriginalAttributesSequence[0].ModifiedAttributesSequence[0].PatientID == MARIE
        before = dcmread(io.BytesIO(MARIES_BRAIN.file(0)))
        assert dataset.PixelData == before.PixelData
    finally:
        with pool.connection() as connection, pytest.MonkeyPatch.context():
            connection.execute(
                "INSERT INTO ledger.hold_resolution (study_uid, action, who) VALUES (%s, 'create', 'admin')",
                (MARIES_BRAIN.uid,),
            )


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", 2),
        ("?limit=1", 1),
        ("?limit=1&offset=1", 1),
        ("?offset=2", 0),
        ("?PatientID=made-up-marie", 2),
        ("?00100020=made-up-marie", 2),
        ("?PatientName=MADE-UP-MARIE*", 2),
        ("?PatientName=nobody*", 0),
        ("?StudyDate=20261124", 1),
        ("?StudyDate=20260101-20260401", 1),
        ("?StudyDate=-20260401", 1),
        ("?StudyDate=20260401-", 1),
        ("?ModalitiesInStudy=MR", 1),
        ("?Modality=DX", 1),
        ("?AccessionNumber=A-1001", 1),
        ("?AccessionNumber=A-*", 1),
        ("?StudyDescription=Chest%3FPA", 1),
        (f"?StudyInstanceUID={MARIES_CHEST.uid},{MARIES_BRAIN.uid},{OTHERS_CHEST.uid}", 2),
        ("?StudyDate=20261124&Modality=MR", 0),
        ("?fuzzymatching=true&PatientName=made-up-marie*", 2),
    ],
)
def test_matching(clinic: Clinic, marie: dict[str, str], query: str, found: int) -> None:
    answer = clinic.get(f"/dicomweb/studies{query}", headers=marie)
    assert answer.status_code == (200 if found else 204)
    assert len(answer.json if found else []) == found
    assert ("fuzzymatching" in answer.headers.get("Warning", "")) == ("fuzzy" in query)
    assert ("additional results" in answer.headers.get("Warning", "")) == (query == "?limit=1")


def test_further_fields(clinic: Clinic, marie: dict[str, str]) -> None:
    def tags(query: str) -> set[str]:
        return set(clinic.get(f"/dicomweb{CHEST_PATH}/instances{query}", headers=marie).json[0])

    plain = tags("")
    assert {"00080016", "00080018", "00080056", "00081190", "00200013", "00280010", "00280100"} <= plain
    assert tags("?includefield=ViewPosition,PatientID,PatientAge") - plain == {"00100020", "00185101"}  # no age there
    assert tags("?includefield=all") > plain


@pytest.mark.parametrize(
    "path",
    [
        "/studies?limit=x",
        "/studies?limit=-1",
        "/studies?NoSuchThing=1",
        "/studies?PixelData=1",
        "/studies?includefield=NoSuchThing",
        "/studies?AccessionNumber=" + "*a" * 20,
        f"{IMAGE}/frames/x",
        f"{IMAGE}/frames/" + ",".join(["1"] * 65),
        f"{IMAGE}/rendered?window=1",
        f"{IMAGE}/rendered?window=nan,1",
        f"{IMAGE}/rendered?window=1,0",
        f"{IMAGE}/rendered?viewport=9999,1",
        f"{IMAGE}/rendered?quality=0",
    ],
)
def test_what_can_not_be_asked(clinic: Clinic, marie: dict[str, str], path: str) -> None:
    answer = clinic.get(f"/dicomweb{path}", headers=marie)
    assert answer.status_code == 400
    assert answer.json["code"] == "bad-field"


@pytest.mark.parametrize(
    ("path", "accept", "status"),
    [
        ("/studies", "application/dicom+json", 200),
        ("/studies", "application/json", 200),
        ("/studies", 'multipart/related; type="application/dicom+xml"', 406),
        (IMAGE, 'multipart/related; type="application/dicom"; transfer-syntax=*', 200),
        (IMAGE, 'multipart/related; type="application/dicom"; transfer-syntax=1.2.840.10008.1.2.4.90', 406),
        (IMAGE, "text/html", 406),
        (f"{IMAGE}/rendered", "image/webp", 406),
        (f"{IMAGE}/rendered", "image/webp, image/*;q=0.5", 200),
        (f"{IMAGE}/frames/1", "image/jp2", 406),
        (f"{IMAGE}/frames/2", "*/*", 404),
        (f"{IMAGE}/bulkdata/00100010", "*/*", 404),
        (f"{IMAGE}/bulkdata/7FE00010", "application/octet-stream", 200),
        (f"{IMAGE}/bulkdata/../../x", "*/*", 404),
    ],
)
def test_what_is_accepted(clinic: Clinic, marie: dict[str, str], path: str, accept: str, status: int) -> None:
    assert clinic.get(f"/dicomweb{path}", headers={**marie, "Accept": accept}).status_code == status


def test_a_window_and_a_viewport(clinic: Clinic, marie: dict[str, str]) -> None:
    def picture(query: str) -> Any:
        answer = clinic.get(f"/dicomweb{IMAGE}/rendered{query}", headers={**marie, "Accept": "image/png"})
        return Image.open(io.BytesIO(answer.data))

    assert picture("?viewport=200,200").size == (188, 200)
    plain, bright = (np.asarray(picture(f"?viewport=200,200{more}")) for more in ("", "&window=60000,100"))
    assert plain.mean() != bright.mean()


@pytest.mark.parametrize(
    "name", ["JPEG2000.dcm", "693_J2KR.dcm", "SC_rgb_rle_2frame.dcm", "JPEG-lossy.dcm", "emri_small.dcm"]
)
def test_stored_and_native_frames(name: str) -> None:
    path = get_testdata_file(name)
    assert isinstance(path, str)
    with open(path, "rb") as file:
        data = file.read()
    dataset = dcmread(path)
    stored, native = frames(data, [1], True), frames(data, [1], False)
    if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        assert stored.media_type.startswith("image/")
        assert stored.transfer_syntax == dataset.file_meta.TransferSyntaxUID
        assert stored.parts[0] != native.parts[0]
    assert native.media_type == "application/octet-stream"
    size = dataset.Rows * dataset.Columns * dataset.SamplesPerPixel * (dataset.BitsAllocated // 8)
    assert len(native.parts[0]) == size
    with pytest.raises(Rejected):
        frames(data, [int(dataset.get("NumberOfFrames") or 1) + 1], True)


@pytest.mark.parametrize("name", ["examples_palette.dcm", "nested_priv_SQ.dcm", "CT_small.dcm", "rtplan.dcm"])
def test_every_bulk_data_address_leads_to_its_value(name: str) -> None:
    path = get_testdata_file(name)
    assert isinstance(path, str)
    with open(path, "rb") as file:
        data = file.read()
    seen = 0

    def walk(model: dict[str, Any]) -> None:
        nonlocal seen
        for element in model.values():
            if "BulkDataURI" in element:
                assert bulk_data(data, element["BulkDataURI"].removeprefix("x/"))
                seen += 1
            if element["vr"] == "SQ":
                for item in element.get("Value", []):
                    walk(item)

    described = metadata(data, "x")
    walk(described)
    assert "BulkDataURI" in described.get("7FE00010", {"BulkDataURI": ""})
    assert seen or name == "rtplan.dcm"


def test_a_token_is_asked_about_once_a_minute(clinic: Clinic, issuer: TokenIssuer, settings: Settings) -> None:
    access = BearerAccess(clinic.services.smart, clinic.services.settings)
    header = f"Bearer {issuer.token(MARIE)}"
    access.caller(header)
    asked = len(issuer.server.asked)
    for _ in range(5):
        assert access.caller(header).patient == MARIE
    assert len(issuer.server.asked) == asked
