from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from fhir_adapter._retry import Retry, retry_after_seconds
from fhir_adapter.bundle import put_entry
from fhir_adapter.client import FhirClient, client_from_settings
from fhir_adapter.errors import FhirPermanent, FhirRetryable, PreconditionFailed, outcome_issues, outcome_text
from fhir_adapter.token_source import EntraToken, StaticToken
from imaging_core.errors import Permanent
from imaging_core.settings import load_settings
from tests.fhir_adapter.conftest import PHI, Wire

Answer = Callable[[httpx.Request], httpx.Response]


class Loopback:
    """A FHIR service that answers by a script, and a client of it that does not really wait."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self.answers = list(answers)
        self.requests: list[httpx.Request] = []
        self.waits: list[float] = []
        retry = Retry(tries=4, sleep=self.waits.append)
        self.client = FhirClient(
            "https://fhir.example/r4", StaticToken("t"), retry=retry, transport=httpx.MockTransport(self._answer)
        )

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def ok(body: dict[str, Any]) -> httpx.Response:
    return httpx.Response(200, json=body)


def busy(status: int = 503, **headers: str) -> httpx.Response:
    return httpx.Response(status, headers={key.replace("_", "-"): value for key, value in headers.items()})


PATIENT = {"resourceType": "Patient", "id": "a"}


@pytest.mark.requirement("I2")
def test_put_and_if_match_against_a_real_server(client: FhirClient) -> None:
    resource: dict[str, Any] = {"resourceType": "Patient", "id": str(uuid.uuid4()), "active": True}
    first = client.update(resource)["meta"]["versionId"]
    again = client.update({**resource, "active": False}, if_match=first)
    assert again["meta"]["versionId"] != first
    with pytest.raises(PreconditionFailed):
        client.update(resource, if_match=first)
    assert (client.vread("Patient", resource["id"], first) or {})["active"] is True
    assert client.refresh(again) is again, "an unchanged resource costs no body"
    assert client.read("Patient", str(uuid.uuid4())) is None


@pytest.mark.requirement("I2", "I3")
def test_a_transaction_is_done_or_not_done(client: FhirClient) -> None:
    first, second = ({"resourceType": "Patient", "id": str(uuid.uuid4())} for _ in range(2))
    stored = client.update(first)
    client.update({**stored, "active": True}, if_match=stored["meta"]["versionId"])
    with pytest.raises(PreconditionFailed):
        client.transaction([put_entry(second, None), put_entry(first, stored)])
    assert client.read("Patient", second["id"]) is None
    answers = client.transaction([put_entry(second, None)])
    assert answers[0]["response"]["status"].startswith("20")


@pytest.mark.requirement("I3")
def test_a_transaction_beyond_a_hundred_entries_is_refused(client: FhirClient, wire: Wire) -> None:
    with pytest.raises(FhirPermanent, match="at most 100"):
        client.transaction([put_entry({"resourceType": "Patient", "id": str(n)}, None) for n in range(101)])
    assert not wire.requests


@pytest.mark.requirement("D43")
def test_a_search_goes_as_a_form_and_follows_its_pages(client: FhirClient, wire: Wire) -> None:
    family = f"{PHI}{uuid.uuid4().hex[:8]}"
    for _ in range(5):
        client.update({"resourceType": "Patient", "id": str(uuid.uuid4()), "name": [{"family": family}]})
    wire.requests.clear()
    found = list(client.search("Patient", {"family": family, "_count": "2"}))
    assert len(found) == 5
    assert wire.requests[0].method == "POST"
    assert PHI not in str(wire.requests[0].url)


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example/r4/Patient?page=2",
        "http://fhir.example/r4/Patient?page=2",
        "https://fhir.example:8443/r4/Patient?page=2",
        "https://fhir.example/other/Patient?page=2",
        "https://fhir.example/r4/../admin",
        "https://fhir.example@evil.example/r4/Patient",
        "//evil.example/r4/Patient",
    ],
)
def test_a_page_on_another_host_is_not_followed(url: str) -> None:
    page = {"resourceType": "Bundle", "entry": [{"resource": PATIENT}], "link": [{"relation": "next", "url": url}]}
    service = Loopback(ok(page))
    with pytest.raises(FhirPermanent, match="next page"):
        list(service.client.search("Patient", {"_count": "1"}))
    assert len(service.requests) == 1


def test_a_page_that_leads_to_itself_ends() -> None:
    link = [{"relation": "next", "url": "https://fhir.example/r4/Patient?page=2"}]
    page = {"resourceType": "Bundle", "entry": [{"resource": PATIENT}], "link": link}
    service = Loopback(ok(page), ok(page), ok(page))
    assert len(list(service.client.search("Patient", {}))) == 2


def test_a_redirect_is_not_followed() -> None:
    service = Loopback(busy(302, Location="https://evil.example/"))
    with pytest.raises(FhirPermanent):
        service.client.read("Patient", "a")
    assert len(service.requests) == 1


@pytest.mark.requirement("I4")
@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_honoured(status: int) -> None:
    service = Loopback(busy(status, Retry_After="7"), ok(PATIENT))
    assert service.client.read("Patient", "a") == PATIENT
    assert service.waits[0] >= 7


@pytest.mark.requirement("I4")
def test_a_long_retry_after_goes_to_the_queue() -> None:
    service = Loopback(busy(429, Retry_After="600"))
    with pytest.raises(FhirRetryable) as caught:
        service.client.read("Patient", "a")
    assert caught.value.retry_after == 600
    assert not service.waits


@pytest.mark.requirement("I4")
@pytest.mark.parametrize("failure", [busy(500), busy(502), busy(504), busy(408), httpx.ReadTimeout("slow")])
def test_a_transient_failure_backs_off_and_is_bounded(failure: Any) -> None:
    service = Loopback(failure, failure, failure, failure)
    with pytest.raises(FhirRetryable):
        service.client.read("Patient", "a")
    assert len(service.requests) == 4
    assert all(wait <= 0.25 * 2**number for number, wait in enumerate(service.waits))


@pytest.mark.requirement("I4")
@pytest.mark.parametrize("status", [400, 401, 403, 405, 422])
def test_other_4xx_are_permanent(status: int) -> None:
    service = Loopback(busy(status), busy(status))
    with pytest.raises(FhirPermanent) as caught:
        service.client.update(PATIENT)
    assert caught.value.status == status
    assert not service.waits


@pytest.mark.requirement("I2", "R7")
@pytest.mark.parametrize("lost", [httpx.ReadTimeout("lost"), busy(504), busy(503)])
def test_a_write_whose_answer_was_lost_is_not_repeated_blindly(lost: Any) -> None:
    service = Loopback(lost)
    with pytest.raises(FhirRetryable):
        service.client.transaction([put_entry(PATIENT, None)])
    service = Loopback(lost)
    with pytest.raises(FhirRetryable):
        service.client.update(PATIENT)
    # with If-Match the second try can undo nothing
    service = Loopback(lost, busy(412))
    with pytest.raises(PreconditionFailed):
        service.client.update(PATIENT, if_match="1")


@pytest.mark.requirement("I4")
def test_a_write_that_never_arrived_is_sent_again() -> None:
    service = Loopback(httpx.ConnectError("refused"), busy(429), ok(PATIENT))
    assert service.client.update(PATIENT) == PATIENT


def test_headers_of_a_request() -> None:
    service = Loopback(ok(PATIENT))
    service.client.read("Patient", "a")
    headers = service.requests[0].headers
    assert headers["authorization"] == "Bearer t"
    assert uuid.UUID(headers["x-ms-client-request-id"])
    assert headers["accept"] == "application/fhir+json"


def test_traceparent_travels(monkeypatch: pytest.MonkeyPatch) -> None:
    from opentelemetry.sdk.trace import TracerProvider

    tracer = TracerProvider().get_tracer("test")
    service = Loopback(ok(PATIENT))
    with tracer.start_as_current_span("upload") as span:
        service.client.read("Patient", "a")
    trace_id = format(span.get_span_context().trace_id, "032x")
    assert trace_id in service.requests[0].headers["traceparent"]


def test_a_refused_token_is_renewed_once() -> None:
    class Credential:
        count = 0

        def get_token(self, *scopes: str, **_: Any) -> Any:
            from azure.core.credentials import AccessToken

            assert scopes == ("https://fhir.example/.default",)
            Credential.count += 1
            return AccessToken(f"token-{Credential.count}", 4_102_444_800)

    requests: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return busy(401) if len(requests) == 1 else ok(PATIENT)

    tokens = EntraToken("https://fhir.example/", Credential())
    client = FhirClient("https://fhir.example", tokens, transport=httpx.MockTransport(answer))
    assert client.read("Patient", "a") == PATIENT
    assert [item.headers["authorization"] for item in requests] == ["Bearer token-1", "Bearer token-2"]


def test_an_identity_endpoint_that_is_away_is_retryable() -> None:
    class Credential:
        def get_token(self, *_: str, **__: Any) -> Any:
            from azure.core.exceptions import ClientAuthenticationError

            raise ClientAuthenticationError("away")

    client = FhirClient("https://fhir.example", EntraToken("https://fhir.example", Credential()))
    with pytest.raises(FhirRetryable, match="no token"):
        client.read("Patient", "a")


@pytest.mark.requirement("D43")
def test_an_outcome_is_told_without_phi() -> None:
    outcome = {
        "resourceType": "OperationOutcome",
        "issue": [
            {
                "severity": "error",
                "code": "invalid",
                "diagnostics": f"Patient {PHI} born 1970-01-31 with 'MRN 4711' and number 123456: name is too long",
                "expression": ["Patient.name"],
            }
        ],
    }
    sent = {"resourceType": "Patient", "name": [{"family": PHI}], "birthDate": "1970-01-31"}
    told = outcome_text(outcome_issues(json.dumps(outcome).encode(), sent))
    assert "invalid" in told
    assert "Patient.name" in told
    assert "too long" in told
    for secret in (PHI, "1970", "4711", "123456"):
        assert secret not in told


def test_settings_make_a_client() -> None:
    with client_from_settings(load_settings(fhir_base_url="https://fhir.example/", fhir_auth="none")) as client:
        assert client.base_url == "https://fhir.example"
    with pytest.raises(Permanent, match="FHIR_TOKEN"):
        client_from_settings(load_settings(fhir_base_url="https://fhir.example", fhir_auth="bearer"))
    with pytest.raises(FhirPermanent):
        FhirClient("ftp://fhir.example")


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(None, 0), ("", 0), ("12", 12), ("soon", 0), ("Thu, 01 Jan 1970 00:01:00 GMT", 50), ("Thu, 01 Jan 1970", 0)],
)
def test_retry_after(value: str | None, seconds: float) -> None:
    assert retry_after_seconds(value, 10.0) == seconds
