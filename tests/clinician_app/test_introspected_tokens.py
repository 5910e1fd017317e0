"""Tokens that can't be verified by keys: what the EHR that gave them says of them decides (RFC 7662)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from joserfc.jwk import KeySet

from clinician_app import bearer_access
from imaging_core.database import Pool
from smart_launch.signing_keys import SigningKey, load_keys, public_jwks
from tests.clinician_app.conftest import MARIE, MARIES_CHEST, MARIES_REPORT, OTHER, OTHERS_CHEST, Clinic, registration
from tests.clinician_app.token_issuer import TokenIssuer, issuing
from tests.smart_launch.strict_ehr import StrictEhr, json_answer, raw_answer

PATIENT_SCOPES = "patient/ImagingStudy.rs patient/DiagnosticReport.rs patient/Observation.rs"
SYSTEM_SCOPES = "system/ImagingStudy.rs system/DiagnosticReport.rs system/Observation.rs"


@pytest.fixture(scope="module")
def system_keys() -> tuple[SigningKey, ...]:
    return load_keys(
        ec.generate_private_key(ec.SECP384R1()).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )


class Asked:
    """An EHR whose tokens are opaque; `said` is laid over what it answers of one, None takes a member away."""

    def __init__(self, ehr: StrictEhr) -> None:
        self.ehr = ehr
        self.said: dict[str, Any] = {}
        ehr.discovery["introspection_endpoint"] = f"{ehr.origin}/introspect"
        ehr.introspection_answer = lambda: json_answer(self.answer())

    def answer(self) -> dict[str, Any]:
        usual = {
            "active": True,
            "scope": PATIENT_SCOPES,
            "client_id": "a-viewer-of-another-vendor",
            "exp": int(time.time()) + 300,
            "patient": MARIE,
            "iss": self.ehr.origin,
            "aud": self.ehr.iss,
            "sub": "user-7",
        }
        return {name: value for name, value in {**usual, **self.said}.items() if value is not None}

    @property
    def count(self) -> int:
        return self.ehr.paths().count("/introspect")


@pytest.fixture
def asked(system_keys: tuple[SigningKey, ...]) -> Iterator[Asked]:
    ehr = StrictEhr()
    ehr.system_keys = KeySet.import_key_set(public_jwks(system_keys))  # type: ignore[arg-type]
    yield Asked(ehr)
    ehr.stop()


def system_client(ehr: StrictEhr, keys: tuple[SigningKey, ...]) -> dict[str, Any]:
    return {
        "system_client_id": ehr.system_client_id,
        "system_scopes": "system/ImagingStudy.rs",
        "system_keys": keys,
    }


@pytest.fixture
def clinic(
    make_clinic: Callable[..., Clinic],
    charts: None,
    asked: Asked,
    system_keys: tuple[SigningKey, ...],
    owner_pool: Pool,
) -> Clinic:
    with owner_pool.connection() as connection:
        connection.execute("TRUNCATE cache.resource, cache.reading")
    ehr = asked.ehr
    return make_clinic(registration(ehr.iss, **system_client(ehr, system_keys)), fhir_aliases=(ehr.iss,))


def ask(clinic: Clinic, path: str = "/dicomweb/studies", token: str = "opaque", **options: Any) -> Any:  # noqa: S107
    return clinic.get(path, headers={"Authorization": f"Bearer {token}", **options.pop("headers", {})}, **options)


def studies(answer: Any) -> set[str]:
    assert answer.status_code == 200, answer.data
    return {item["0020000D"]["Value"][0] for item in answer.json}


@pytest.mark.requirement("S50", "S70", "S78")
def test_a_token_of_a_patient_shows_that_patient_only(clinic: Clinic, asked: Asked) -> None:
    found = studies(ask(clinic))
    assert MARIES_CHEST.uid in found
    assert OTHERS_CHEST.uid not in found
    results = ask(clinic, "/api/results").json
    assert results["patient"] == MARIE
    assert [item["report"] for item in results["results"]] == [MARIES_REPORT.id]
    assert ask(clinic, f"/api/results?patient={OTHER}").status_code == 404
    assert ask(clinic, f"/dicomweb/studies?patient={OTHER}").status_code == 404
    assert ask(clinic, f"/dicomweb/studies/{OTHERS_CHEST.uid}/metadata").status_code == 404
    assert asked.ehr.failures == []


@pytest.mark.requirement("S78", "XD1")
@pytest.mark.parametrize(
    ("said", "status"),
    [
        ({"active": False}, 401),
        ({"active": "true"}, 401),
        ({"exp": int(time.time()) - 5}, 401),
        ({"exp": "never"}, 401),
        ({"aud": "https://another-service.example"}, 401),
        ({"aud": ["https://another-service.example"]}, 401),
        ({"aud": 5}, 401),
        ({"iss": "https://evil.example"}, 401),
        ({"aud": None, "iss": None, "exp": None}, 200),
        ({"aud": ["https://another-service.example", "https://localhost"]}, 200),
        ({"patient": f"Patient/{MARIE}"}, 200),
        ({"client_id": "whoever"}, 200),
        ({"patient": None}, 403),
        ({"patient": f"{MARIE},{OTHER}"}, 403),
        ({"scope": None}, 403),
        ({"scope": "patient/ImagingStudy.r"}, 403),
        ({"scope": "system/ImagingStudy.rs"}, 403),  # of a patient's context, and no right at its level
        ({"scope": "patient/ImagingStudy.rs?modality=CT"}, 403),  # some of the studies are not all of them
    ],
)
def test_what_the_ehr_says_decides(clinic: Clinic, asked: Asked, said: dict[str, Any], status: int) -> None:
    asked.said = said
    answer = ask(clinic)
    assert answer.status_code == status
    if status == 401:
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        assert answer.mimetype == "application/problem+json"


@pytest.mark.requirement("S70", "S78")
def test_a_system_names_the_patient_and_sees_no_more_than_its_scopes(clinic: Clinic, asked: Asked) -> None:
    asked.said = {"patient": None, "sub": None, "scope": SYSTEM_SCOPES}
    assert [item["report"] for item in ask(clinic, f"/api/results?patient={MARIE}").json["results"]] == [
        MARIES_REPORT.id
    ]
    others = ask(clinic, f"/api/results?patient=Patient/{OTHER}").json
    assert {item["study_uid"] for item in others["results"]} == {OTHERS_CHEST.uid}
    assert MARIES_CHEST.uid in studies(ask(clinic, f"/dicomweb/studies?patient={MARIE}"))
    assert studies(ask(clinic, f"/dicomweb/studies?patient={OTHER}")) == {OTHERS_CHEST.uid}
    # ImagingStudy.endpoint leads below /dicomweb: the study says whose it is
    for study in (MARIES_CHEST, OTHERS_CHEST):
        assert ask(clinic, f"/dicomweb/studies/{study.uid}/metadata").status_code == 200
    assert ask(clinic, f"/dicomweb/studies/{MARIES_CHEST.uid}/metadata?patient={OTHER}").status_code == 404
    assert ask(clinic, "/dicomweb/studies/1.2.3.4.5/metadata").status_code == 404
    for path in (
        "/api/results",
        "/dicomweb/studies",
        f"/api/results?patient={MARIE},{OTHER}",
        "/api/results?patient=*",
    ):
        assert ask(clinic, path).status_code == 400, path
    asked.said["scope"] = "system/DiagnosticReport.rs"
    assert ask(clinic, f"/dicomweb/studies?patient={MARIE}", token="less").status_code == 403
    assert ask(clinic, f"/api/results?patient={MARIE}", token="less").json["missing"] == {
        "studies": "not-granted",
        "findings": "not-granted",
    }
    asked.said["scope"] = SYSTEM_SCOPES.replace("system", "user")  # what a user may see, only the EHR knows
    assert ask(clinic, f"/api/results?patient={MARIE}", token="a-user-s").status_code == 403


@pytest.mark.requirement("S78")
def test_an_answer_is_kept_for_a_minute_and_no_longer(
    clinic: Clinic, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = time.time()
    now = [start]

    class Clock:
        time = staticmethod(lambda: now[0])

    monkeypatch.setattr(bearer_access, "time", Clock)
    asked.said = {"exp": int(start) + 3600}
    for passed in (0, 1, 59):
        now[0] = start + passed
        assert ask(clinic).status_code == 200
    assert asked.count == 1
    asked.said = {"active": False}  # revoked in the meantime
    now[0] = start + 61
    assert ask(clinic).status_code == 401
    assert ask(clinic).status_code == 401
    assert asked.count == 2
    asked.said = {"exp": int(start) + 70}  # ends before the minute does
    assert ask(clinic, token="short").status_code == 200
    asked.said = {"active": False}
    now[0] = start + 71
    assert ask(clinic, token="short").status_code == 401
    assert asked.count == 4


@pytest.mark.requirement("S78")
@pytest.mark.parametrize("status", [401, 403, 429, 500, 503])
def test_an_ehr_that_can_t_say_is_no_refusal_of_the_token(clinic: Clinic, asked: Asked, status: int) -> None:
    asked.ehr.introspection_answer = lambda: raw_answer("{}", status)
    answer = ask(clinic)
    assert answer.status_code == 503
    assert answer.headers["Retry-After"]
    asked.ehr.introspection_answer = lambda: json_answer(asked.answer())
    assert ask(clinic).status_code == 200  # an outage is not remembered


@pytest.mark.requirement("S78")
def test_an_ehr_that_is_away(clinic: Clinic, asked: Asked) -> None:
    asked.ehr.stop()
    for path in ("/dicomweb/studies", "/api/results"):
        assert ask(clinic, path).status_code == 503


@pytest.mark.requirement("S78", "XD2")
def test_a_token_that_names_another_issuer_is_not_sent_to_this_ehr(clinic: Clinic, asked: Asked) -> None:
    with issuing() as stranger:
        assert ask(clinic, token=stranger.token(MARIE)).status_code == 401
    assert asked.count == 0


@pytest.mark.requirement("S78")
def test_where_the_ehr_offers_no_introspection_its_opaque_tokens_are_not_valid(clinic: Clinic, asked: Asked) -> None:
    del asked.ehr.discovery["introspection_endpoint"]
    assert ask(clinic).status_code == 401


@pytest.mark.requirement("S78")
def test_one_ehr_that_is_away_does_not_shut_out_the_other_s_tokens(
    make_clinic: Callable[..., Clinic], charts: None, asked: Asked, system_keys: tuple[SigningKey, ...]
) -> None:
    gone = StrictEhr()
    gone.stop()
    with issuing() as issuer:
        clinic = make_clinic(
            registration(gone.iss, name="gone", **system_client(gone, system_keys)),
            registration(asked.ehr.iss, name="there", **system_client(asked.ehr, system_keys)),
            registration(issuer.base, name="keys"),
            fhir_aliases=(gone.iss, asked.ehr.iss, issuer.base),
        )
        assert ask(clinic).status_code == 200
        assert _by_keys(clinic, issuer) == 200
        asked.said = {"active": False}
        assert ask(clinic, token="unknown").status_code == 503  # it may be one of the EHR's that is away


def _by_keys(clinic: Clinic, issuer: TokenIssuer) -> int:
    return int(ask(clinic, token=issuer.token(MARIE)).status_code)
