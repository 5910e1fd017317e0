"""Sign-off from form to record: sign, change, reject, amend, conflict; who may not; what is kept and put on record."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from fhir.resources.R4B.auditevent import AuditEvent

from fhir_adapter.client import FhirClient
from fhir_adapter.severity import severity_of
from imaging_core.blobs import BlobStore
from imaging_core.database import Pool
from imaging_core.settings import Settings
from smart_launch.fhir_session import FhirSession
from tests.clinician_app.conftest import (
    ALL_SCOPES,
    MARIE,
    MARIES_REPORT,
    READER_SCOPES,
    SIGNERS,
    WRITER_SCOPES,
    Clinic,
    registration,
)
from tests.clinician_app.made_up_chart import PATIENT_SYSTEM, human_report, patient
from tests.clinician_app.odd_fhir import of_resources, running
from tests.clinician_app.signable import Signable, signable


@pytest.fixture
def clinic(make_clinic: Callable[..., Clinic], settings: Settings, charts: None, owner_pool: Pool) -> Clinic:
    """An app launched from an EHR whose radiologists may sign."""
    with owner_pool.connection() as connection:
        connection.execute("TRUNCATE cache.resource, cache.reading")
    return make_clinic(registration(settings.fhir_base_url, signers=SIGNERS))


@pytest.fixture
def case(fhir_client: FhirClient, pool: Pool, blob_store: BlobStore, charts: None) -> Signable:
    return signable(fhir_client, pool, blob_store)


@pytest.fixture
def events(pool: Pool) -> Callable[[], list[dict[str, Any]]]:
    def read() -> list[dict[str, Any]]:
        with pool.connection() as connection:
            return [row[0] for row in connection.execute("SELECT event FROM ledger.audit_outbox ORDER BY id")]

    return read


def _launch(clinic: Clinic, case: Signable, **options: Any) -> str:
    return clinic.launch(case.patient, **{"scopes": READER_SCOPES, **options})


def _previewed(clinic: Clinic, launch: str, case: Signable, **fields: str) -> Any:
    """Send the form; return the preview's page."""
    answer = clinic.post(f"{launch}{case.page}/review", case.form(**fields))
    assert answer.status_code == 303, answer.text
    return clinic.get(answer.headers["Location"])


def _form_of(page: Any) -> str:
    match = re.search(r'name="form" value="([^"]+)"', page.text)
    assert match, page.text
    return match[1]


def _signed(clinic: Clinic, launch: str, case: Signable, **fields: str) -> Any:
    """Go all the way; return the answer to the confirmation."""
    form = _form_of(_previewed(clinic, launch, case, **fields))
    return clinic.post(f"{launch}{case.page}/sign", {"form": form})


def _copies(blobs: BlobStore, case: Signable) -> list[str]:
    return sorted(item.name for item in blobs.list("signoffs", case.study_uid))


@pytest.mark.requirement("R6", "R7", "A1")
def test_accept_and_sign(
    clinic: Clinic, case: Signable, blob_store: BlobStore, events: Callable[[], list[dict[str, Any]]]
) -> None:
    launch = _launch(clinic, case)
    page = clinic.get(launch + case.page).text
    assert "You sign as Dr. Lefevre" in page
    preview = _previewed(clinic, launch, case)
    assert preview.status_code == 200
    assert "This is what goes on record: Final" in preview.text
    assert "Reviewed and signed by Dr. Lefevre" in preview.text
    assert case.report["status"] == "preliminary", "a preview writes nothing"
    assert _copies(blob_store, case) == []
    before = len(events())
    answer = clinic.post(f"{launch}{case.page}/sign", {"form": _form_of(preview)})
    assert answer.status_code == 303
    report = case.report
    assert report["status"] == "final"
    assert report["resultsInterpreter"] == [{"reference": "Practitioner/lefevre", "display": "Dr. Lefevre"}]
    assert case.observation["status"] == "final"
    (name,) = _copies(blob_store, case)
    copy = json.loads(blob_store.get("signoffs", name))
    assert copy["entry"][0]["resource"]["status"] == "final"
    acts = [item for item in events()[before:] if item["outcomeDesc"] == "Report signed"]
    assert len(acts) == 1
    AuditEvent.model_validate(acts[0])
    assert acts[0]["outcome"] == "0"
    assert acts[0]["agent"][2]["who"]["identifier"]["value"] == "dr-lefevre"
    assert {"reference": f"DiagnosticReport/{case.report_id}"} in [item.get("what") for item in acts[0]["entity"]]
    page = clinic.get(answer.headers["Location"]).text
    assert "Final" in page
    assert "Dr. Lefevre" in page
    assert "Amend…" in page
    assert "Automated analysis, not reviewed" not in page


@pytest.mark.requirement("R6")
def test_change_the_finding_its_severity_and_the_words(clinic: Clinic, case: Signable) -> None:
    launch, name = _launch(clinic, case), case.observation["id"]
    form = clinic.get(f"{launch}{case.page}/review").text
    assert f'name="state.{name}" value="present" checked' in form
    preview = _previewed(
        clinic,
        launch,
        case,
        **{f"state.{name}": "present", f"severity.{name}": "moderate", "conclusion": "A <b>word</b>."},
    )
    assert "Present, moderate" in preview.text
    assert "A &lt;b&gt;word&lt;/b&gt;." in preview.text
    clinic.post(f"{launch}{case.page}/sign", {"form": _form_of(preview)})
    assert severity_of(case.observation) == "moderate"
    assert case.report["conclusion"] == "A <b>word</b>."
    page = clinic.get(launch + case.page).text
    assert "Present, moderate" in page


@pytest.mark.requirement("R6")
def test_what_the_preview_shows_is_what_is_written(clinic: Clinic, case: Signable) -> None:
    launch, name = _launch(clinic, case), case.observation["id"]
    preview = _previewed(clinic, launch, case, **{f"state.{name}": "absent"})
    assert "The model said:" in preview.text
    # fields beside the form's own value change nothing: what was shown is what is confirmed
    clinic.post(
        f"{launch}{case.page}/sign", {"form": _form_of(preview), f"state.{name}": "present", "conclusion": "sneaked in"}
    )
    assert case.observation["valueCodeableConcept"]["coding"][0]["code"] == "2667000"
    assert "sneaked in" not in case.report["conclusion"]
    shown = re.search(r'<p class="prose">(.*?)</p>', preview.text, re.DOTALL)
    assert shown
    without_time = re.compile(r", \d{4}-.*?\.\n")
    assert without_time.sub("", shown[1].strip()) == without_time.sub("", case.report["conclusion"].strip())
    page = clinic.get(launch + case.page).text
    assert "Changed by the reader. The model said: Present, 83%." in page


@pytest.mark.requirement("R6", "XH2")
def test_a_form_serves_once(clinic: Clinic, case: Signable, events: Callable[[], list[dict[str, Any]]]) -> None:
    launch = _launch(clinic, case)
    form = _form_of(_previewed(clinic, launch, case))
    before = len(events())
    for _ in range(3):
        answer = clinic.post(f"{launch}{case.page}/sign", {"form": form})
        assert answer.status_code == 303
        assert answer.headers["Location"].endswith(case.page)
    assert case.version == "2"
    assert len([item for item in events()[before:] if item["outcomeDesc"] == "Report signed"]) == 1
    assert clinic.get(f"{launch}{case.page}/preview?form={form}").status_code == 303, "a reload repeats nothing"


@pytest.mark.requirement("R6", "XH2", "XH11")
def test_a_form_is_its_launch_s_and_its_report_s(
    clinic: Clinic, case: Signable, fhir_client: FhirClient, pool: Pool, blob_store: BlobStore
) -> None:
    launch = _launch(clinic, case)
    form = _form_of(_previewed(clinic, launch, case))
    second = _launch(clinic, case, subject="dr-curie", fhir_user="Practitioner/curie")
    other = signable(fhir_client, pool, blob_store)
    others = _launch(clinic, other)
    for path in (f"{second}{case.page}", f"{others}{other.page}"):
        assert clinic.post(f"{path}/sign", {"form": form}).status_code == 404
        assert clinic.get(f"{path}/preview?form={form}").status_code == 404
    assert clinic.post(f"{launch}{case.page}/sign", {"form": "guessed"}).status_code == 404
    assert clinic.post(f"{launch}{case.page}/sign", {"form": form, "csrf_token": "wrong"}).status_code == 403
    foreign = {"Origin": "https://evil.example"}
    assert clinic.post(f"{launch}{case.page}/sign", {"form": form}, headers=foreign).status_code == 403
    assert case.report["status"] == other.report["status"] == "preliminary"


@pytest.mark.requirement("R6", "A1")
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"fhir_user": "Practitioner/weber", "subject": "dr-weber"}, "needs a role that your EHR does not give you"),
        ({"scopes": ALL_SCOPES}, "would not say whether you may sign"),
    ],
)
def test_without_the_right_nothing_is_offered_and_nothing_taken(
    clinic: Clinic,
    case: Signable,
    events: Callable[[], list[dict[str, Any]]],
    options: dict[str, Any],
    words: str,
) -> None:
    launch = _launch(clinic, case, **options)
    page = clinic.get(launch + case.page).text
    assert words in page
    assert "Accept…" not in page
    assert "/review" not in page
    before = len(events())
    paths = [f"{launch}{case.page}/{what}" for what in ("review", "sign")]
    for path in paths:
        answer = clinic.post(path, {**case.form(), "form": "x"})
        assert answer.status_code == 403
        assert words in answer.text
    assert clinic.get(paths[0]).status_code == 403
    refused = events()[before:]
    assert [item["outcomeDesc"] for item in refused] == ["Access refused"] * 3
    assert {item["outcome"] for item in refused} == {"4"}
    assert case.report["status"] == "preliminary"


@pytest.mark.requirement("R6")
def test_a_right_that_is_lost_between_preview_and_confirmation(
    clinic: Clinic, case: Signable, fhir_client: FhirClient
) -> None:
    launch = _launch(clinic, case)
    form = _form_of(_previewed(clinic, launch, case))
    role = fhir_client.read("PractitionerRole", "lefevre-role")
    assert role
    try:
        fhir_client.update({**role, "active": False})
        assert clinic.post(f"{launch}{case.page}/sign", {"form": form}).status_code == 403
        assert case.report["status"] == "preliminary"
    finally:
        fhir_client.update(role)


@pytest.mark.requirement("R6")
def test_an_ehr_without_a_rule_lets_nobody_sign(
    make_clinic: Callable[..., Clinic], settings: Settings, case: Signable
) -> None:
    clinic = make_clinic(registration(settings.fhir_base_url))
    launch = _launch(clinic, case)
    assert "can&#39;t be signed from this EHR" in clinic.get(launch + case.page).text
    assert clinic.post(f"{launch}{case.page}/sign", {"form": "x"}).status_code == 403


@pytest.mark.requirement("R6")
@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"rejection": "poor-quality"}, "Poor image quality"),
        ({"rejection": "wrong-examination", "reason": "a hand"}, "not made for: a hand"),
        ({"rejection": "other", "reason": "motion"}, "motion"),
    ],
)
def test_reject(clinic: Clinic, case: Signable, fields: dict[str, str], said: str) -> None:
    launch = _launch(clinic, case)
    assert "Why is it rejected?" in clinic.get(f"{launch}{case.page}/review?act=reject").text
    answer = _signed(clinic, launch, case, act="reject", **fields)
    assert answer.status_code == 303
    assert case.report["status"] == "cancelled"
    assert said in case.report["conclusion"]
    page = clinic.get(launch + case.page).text
    assert "A clinician rejected this analysis" in page
    assert "Accept…" not in page
    assert said in clinic.get(f"{launch}{case.page}/original").text


@pytest.mark.requirement("R6")
@pytest.mark.parametrize(
    "fields",
    [
        {"act": "reject", "rejection": "other"},
        {"act": "reject", "rejection": ""},
        {"act": "reject", "rejection": "because"},
        {"act": "delete"},
        {"act": "sign", "conclusion": "x" * 8001},
        {"act": "amend"},
    ],
)
def test_a_form_that_is_incomplete_comes_back(clinic: Clinic, case: Signable, fields: dict[str, str]) -> None:
    launch = _launch(clinic, case)
    answer = clinic.post(f"{launch}{case.page}/review", case.form(**fields))
    assert answer.status_code == 400
    assert "Something is missing" in answer.text
    assert case.report["status"] == "preliminary"


@pytest.mark.requirement("R6")
@pytest.mark.parametrize("value", ["maybe", "present'; --", "x" * 40])
def test_values_that_the_form_does_not_offer(clinic: Clinic, case: Signable, value: str) -> None:
    launch, name = _launch(clinic, case), case.observation["id"]
    for field in ("state", "severity"):
        answer = clinic.post(f"{launch}{case.page}/review", case.form(**{f"{field}.{name}": value}))
        assert answer.status_code == 400
    foreign = case.form(**{"seen.other-finding": "present", "state.other-finding": "absent"})
    answer = clinic.post(f"{launch}{case.page}/review", foreign)
    assert clinic.get(answer.headers["Location"]).status_code == 400


@pytest.mark.requirement("R6", "I2")
def test_two_doctors_the_second_sees_what_changed_and_loses_nothing(
    clinic: Clinic, case: Signable, blob_store: BlobStore, events: Callable[[], list[dict[str, Any]]]
) -> None:
    name = case.observation["id"]
    first = _launch(clinic, case)
    second = _launch(clinic, case, subject="dr-curie", fhir_user="Practitioner/curie")
    seconds = _form_of(
        _previewed(clinic, second, case, **{f"state.{name}": "indeterminate", "conclusion": "My careful words."})
    )
    assert _signed(clinic, first, case, **{f"state.{name}": "absent"}).status_code == 303
    before = len(events())
    answer = clinic.post(f"{second}{case.page}/sign", {"form": seconds})
    assert answer.status_code == 409
    for words in ("changed while you were reading", "Dr. Lefevre", "you were shown: Present", "My careful words."):
        assert words in answer.text, words
    assert f'name="state.{name}" value="indeterminate" checked' in answer.text
    assert "On record:" in answer.text
    assert case.report["status"] == "final"
    assert case.report["resultsInterpreter"][0]["display"] == "Dr. Lefevre"
    failed = [item for item in events()[before:] if item["outcomeDesc"] == "Report signed"]
    assert [item["outcome"] for item in failed] == ["4"]
    assert [item for item in _copies(blob_store, case) if item.endswith(".void")] == []
    # the second goes on from there: what was a signature is an amendment now, and needs its reason
    fields = {"act": "amend", "reason": "second opinion", f"state.{name}": "indeterminate", "conclusion": "My words."}
    assert _signed(clinic, second, case, **fields).status_code == 303
    assert case.report["status"] == "amended"
    assert case.report["conclusion"] == "My words."
    history = clinic.get(f"{first}{case.page}/original").text
    for words in ("second opinion", "Dr. Curie", "Dr. Lefevre", "Lung opacity"):
        assert words in history, words


@pytest.mark.requirement("R6", "I2")
def test_the_preview_of_a_report_that_has_changed_is_a_conflict_too(clinic: Clinic, case: Signable) -> None:
    launch, name = _launch(clinic, case), case.observation["id"]
    stale = case.form(**{f"state.{name}": "present", "conclusion": "Kept."})
    case.again("absent", 0.1)
    answer = clinic.post(f"{launch}{case.page}/review", stale)
    shown = clinic.get(answer.headers["Location"])
    assert shown.status_code == 409
    assert "The analysis was made anew." in shown.text
    assert "you were shown: Present" in shown.text
    assert f'name="state.{name}" value="present" checked' in shown.text, "what was on the reader's screen is kept"
    assert "Kept." in shown.text


@pytest.mark.requirement("R6", "I2")
def test_somebody_is_faster_between_read_and_write(
    make_clinic: Callable[..., Clinic], settings: Settings, case: Signable, blob_store: BlobStore
) -> None:
    """The other's write comes after this act has kept its copy: the copy is marked as never signed."""

    class Wire(httpx.HTTPTransport):
        armed = False

        def handle_request(self, request: httpx.Request) -> httpx.Response:
            if self.armed and b'"type":"transaction"' in request.content:
                self.armed = False
                case.again("absent", 0.1)
            return super().handle_request(request)

    from fhir_adapter.token_source import StaticToken

    wire = Wire()
    token = StaticToken(settings.fhir_token.get_secret_value())
    with FhirClient(settings.fhir_base_url, token, transport=wire) as client:
        clinic = make_clinic(registration(settings.fhir_base_url, signers=SIGNERS), imaging=client)
        launch = _launch(clinic, case)
        form = _form_of(_previewed(clinic, launch, case))
        wire.armed = True
        assert clinic.post(f"{launch}{case.page}/sign", {"form": form}).status_code == 409
    copies = _copies(blob_store, case)
    assert len(copies) == 2
    assert copies[1] == f"{copies[0]}.void"
    assert case.report["status"] == "preliminary"


@pytest.mark.requirement("R6")
@pytest.mark.parametrize(("act", "status"), [("amend", "amended"), ("correct", "corrected")])
def test_amend_with_a_reason(
    clinic: Clinic, case: Signable, act: str, status: str, events: Callable[[], list[dict[str, Any]]]
) -> None:
    launch, name = _launch(clinic, case), case.observation["id"]
    _signed(clinic, launch, case, conclusion="My first words.")
    form = clinic.get(f"{launch}{case.page}/review?act={act}").text
    assert "My first words." in form, "the words on record are there to be changed"
    answer = clinic.post(f"{launch}{case.page}/review", case.form(act=act))
    assert answer.status_code == 400
    before = len(events())
    fields = {"act": act, "reason": "seen again", f"state.{name}": "absent", "conclusion": "None."}
    assert _signed(clinic, launch, case, **fields).status_code == 303
    assert case.report["status"] == status
    assert case.observation["status"] == status
    assert "Signed report amended" in [item["outcomeDesc"] for item in events()[before:]]
    original = clinic.get(f"{launch}{case.page}/original").text
    assert "seen again" in original
    assert "Automated analysis, as it was before anybody reviewed it" in original
    assert "83%" in original


@pytest.mark.requirement("A2")
def test_where_the_act_can_not_be_put_on_record_it_is_not_done(
    clinic: Clinic, case: Signable, owner_pool: Pool, blob_store: BlobStore
) -> None:
    launch = _launch(clinic, case)
    form = _form_of(_previewed(clinic, launch, case))
    with owner_pool.connection() as connection:
        connection.execute("REVOKE INSERT ON ledger.audit_outbox FROM imaging_page")
    try:
        answer = clinic.post(f"{launch}{case.page}/sign", {"form": form})
        assert answer.status_code == 503
        assert "Nothing was signed." in answer.text
        assert case.report["status"] == "preliminary"
        assert _copies(blob_store, case) == []
    finally:
        with owner_pool.connection() as connection:
            connection.execute("GRANT INSERT ON ledger.audit_outbox TO imaging_page")
    again = re.search(r'href="([^"]+/preview\?form=[^"]+)"', answer.text)
    assert again, "what was typed is kept for another try"
    retried = _form_of(clinic.get(again[1]))
    assert clinic.post(f"{launch}{case.page}/sign", {"form": retried}).status_code == 303
    assert case.report["status"] == "final"


@pytest.mark.requirement("R6")
def test_without_a_durable_copy_nothing_is_signed(
    clinic: Clinic, case: Signable, monkeypatch: pytest.MonkeyPatch, events: Callable[[], list[dict[str, Any]]]
) -> None:
    from imaging_core.errors import Retryable

    launch = _launch(clinic, case)
    form = _form_of(_previewed(clinic, launch, case))
    put_new = BlobStore.put_new

    def away(self: BlobStore, container: str, *rest: Any, **options: Any) -> bool:
        if container == "signoffs":
            raise Retryable("storage-unavailable", "away")
        return put_new(self, container, *rest, **options)

    monkeypatch.setattr(BlobStore, "put_new", away)
    before = len(events())
    answer = clinic.post(f"{launch}{case.page}/sign", {"form": form})
    assert answer.status_code == 503
    assert answer.headers["Retry-After"]
    assert case.report["status"] == "preliminary"
    assert [item["outcome"] for item in events()[before:] if item["outcomeDesc"] == "Report signed"] == ["4"]


@pytest.mark.requirement("R6", "A2")
@pytest.mark.parametrize("arrived", [True, False])
def test_a_process_that_dies_in_between_leaves_an_act_that_is_settled(
    clinic: Clinic,
    case: Signable,
    pool: Pool,
    owner_pool: Pool,
    events: Callable[[], list[dict[str, Any]]],
    blob_store: BlobStore,
    arrived: bool,
) -> None:
    class Killed(BaseException):
        pass

    launch = _launch(clinic, case)
    form = _form_of(_previewed(clinic, launch, case))
    before = len(events())
    own = clinic.services.imaging
    assert own is not None
    transaction = type(own).transaction

    def killed(self: FhirClient, entries: Any, **options: Any) -> Any:
        if arrived:
            transaction(self, entries, **options)
        raise Killed

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(FhirClient, "transaction", killed)
        with pytest.raises(Killed):
            clinic.post(f"{launch}{case.page}/sign", {"form": form})
    assert [item for item in events()[before:] if item["outcomeDesc"] == "Report signed"] == []
    with owner_pool.connection() as connection:
        connection.execute(
            "UPDATE app.signoff_draft SET begun_at = begun_at - interval '1 hour' WHERE ended_at IS NULL"
        )
    assert clinic.services.desk is not None
    clinic.services.desk.settle()

    def signed() -> list[str]:
        mine = [item for item in events()[before:] if case.report_id in json.dumps(item)]
        return [item["outcome"] for item in mine if item["outcomeDesc"] == "Report signed"]

    assert signed() == ["0" if arrived else "4"]
    assert [item.endswith(".void") for item in _copies(blob_store, case)] == ([False] if arrived else [False, True])
    clinic.services.desk.settle()
    assert len(signed()) == 1


@pytest.mark.requirement("R6")
def test_the_signer_s_own_token_writes_where_it_may(
    clinic: Clinic, case: Signable, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    request = FhirSession.request

    def watched(self: FhirSession, method: str, target: str, **options: Any) -> Any:
        written.append(method)
        return request(self, method, target, **options)

    monkeypatch.setattr(FhirSession, "request", watched)
    launch = _launch(clinic, case, scopes=WRITER_SCOPES)
    preview = _previewed(clinic, launch, case)
    assert "with your own rights in the EHR" in preview.text
    clinic.post(f"{launch}{case.page}/sign", {"form": _form_of(preview)})
    assert case.report["status"] == "final"
    assert "POST" in written
    provenance = [
        item
        for item in case.client.search("Provenance", {"target": f"DiagnosticReport/{case.report_id}"})
        if "Practitioner/lefevre" in json.dumps(item)
    ]
    assert len(provenance[0]["agent"]) == 1, "nobody wrote on the signer's behalf"


@pytest.mark.requirement("R6", "S50")
@pytest.mark.parametrize(
    "scopes",
    [
        READER_SCOPES,
        f"{READER_SCOPES} patient/DiagnosticReport.u",
        f"{READER_SCOPES} patient/DiagnosticReport.u patient/Observation.u",
        f"{READER_SCOPES} patient/DiagnosticReport.u patient/Observation.u?status=final patient/Provenance.cu",
    ],
)
def test_else_the_app_writes_on_the_signer_s_behalf(clinic: Clinic, case: Signable, scopes: str) -> None:
    launch = _launch(clinic, case, scopes=scopes)
    preview = _previewed(clinic, launch, case)
    assert "on your behalf" in preview.text
    clinic.post(f"{launch}{case.page}/sign", {"form": _form_of(preview)})
    (act,) = [
        item
        for item in case.client.search("Provenance", {"target": f"DiagnosticReport/{case.report_id}"})
        if len(item["agent"]) == 2
    ]
    assert act["agent"][1]["onBehalfOf"] == {"reference": "Practitioner/lefevre", "display": "Dr. Lefevre"}


@pytest.mark.requirement("R6")
def test_an_ehr_elsewhere_is_named_by_its_own_identifier(
    make_clinic: Callable[..., Clinic], settings: Settings, case: Signable
) -> None:
    number = case.header["00100020"]["Value"][0]
    person = patient("ehr-9", "Signable", ["Ada"], "1970-01-31", "female", number)
    from tests.clinician_app.made_up_chart import practitioner

    with running(of_resources(person, *practitioner("lefevre", "66862007"))) as server:
        told = {"imaging_fhir": settings.fhir_base_url, "patient_identifier_systems": (PATIENT_SYSTEM,)}
        clinic = make_clinic(registration(server.base, signers=SIGNERS, **told))
        launch = clinic.launch("ehr-9", scopes=WRITER_SCOPES)
        assert _signed(clinic, launch, case).status_code == 303
    (signer,) = case.report["resultsInterpreter"]
    assert signer["identifier"] == {"system": server.base, "value": "Practitioner/lefevre"}


@pytest.mark.requirement("R7", "S70")
def test_only_reports_of_this_system_can_be_signed(clinic: Clinic, fhir_client: FhirClient) -> None:
    fhir_client.update(human_report("radiologist-s-own", MARIE, None, "All fine."))
    launch = clinic.launch(scopes=READER_SCOPES)
    for name in ("radiologist-s-own", "no-such-report"):
        for what in ("review", "preview", "original"):
            assert clinic.get(f"{launch}/reports/{name}/{what}").status_code == 404
        assert clinic.post(f"{launch}/reports/{name}/sign", {"form": "x"}).status_code == 404
    assert "Amend…" not in clinic.get(f"{launch}/reports/radiologist-s-own").text
    assert clinic.get(f"{launch}/reports/{MARIES_REPORT.id}/review").status_code == 200


@pytest.mark.requirement("R6", "S70")
def test_a_study_that_the_ledger_does_not_hold_as_the_patient_s_is_not_signed(
    clinic: Clinic, case: Signable, pool: Pool
) -> None:
    launch = _launch(clinic, case)
    with pool.connection() as connection:
        connection.execute("UPDATE ledger.study SET subject = 'Patient/x' WHERE study_uid = %s", (case.study_uid,))
    for path in ("review", "preview", "original"):
        assert clinic.get(f"{launch}{case.page}/{path}").status_code == 404
    assert clinic.post(f"{launch}{case.page}/sign", {"form": "x"}).status_code == 404
    assert "Accept…" not in clinic.get(launch + case.page).text


@pytest.mark.requirement("R9")
def test_every_page_of_it_in_french(clinic: Clinic, case: Signable) -> None:
    launch = _launch(clinic, case)
    french = {"headers": {"Accept-Language": "fr"}}
    assert "Vous signez en tant que" in clinic.get(launch + case.page, **french).text
    assert "Sévérité" in clinic.get(f"{launch}{case.page}/review", **french).text
    assert "Pourquoi" in clinic.get(f"{launch}{case.page}/review?act=reject", **french).text
    answer = clinic.post(f"{launch}{case.page}/review", case.form())
    preview = clinic.get(answer.headers["Location"], **french)
    assert "Signer" in preview.text
    clinic.post(f"{launch}{case.page}/sign", {"form": _form_of(preview)})
    assert "Ce que le modèle a dit" in clinic.get(f"{launch}{case.page}/original", **french).text


@pytest.mark.requirement("R6")
def test_a_summary_of_the_findings_is_made_anew_when_they_change(clinic: Clinic, case: Signable) -> None:
    launch, name = _launch(clinic, case), case.observation["id"]
    _signed(clinic, launch, case)
    assert "Reviewed and signed" not in clinic.get(f"{launch}{case.page}/review?act=amend").text
    _signed(clinic, launch, case, act="amend", reason="no", **{f"state.{name}": "absent"})
    assert "absent" in case.report["conclusion"]
    assert "present" not in case.report["conclusion"]


def test_the_form_keeps_what_was_typed_when_one_goes_back(clinic: Clinic, case: Signable) -> None:
    launch, name = _launch(clinic, case), case.observation["id"]
    form = _form_of(_previewed(clinic, launch, case, **{f"state.{name}": "absent", "conclusion": "Half a thought"}))
    page = clinic.get(f"{launch}{case.page}/review?form={form}").text
    assert "Half a thought" in page
    assert f'name="state.{name}" value="absent" checked' in page
