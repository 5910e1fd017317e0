"""The client, registering and publishing behind a proxy that behaves and fails as Azure's FHIR service does."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from fhir_adapter._retry import Retry
from fhir_adapter.bundle import put_entry
from fhir_adapter.client import FhirClient
from fhir_adapter.errors import FhirPermanent, FhirRetryable, PreconditionFailed
from fhir_adapter.register import Registered, ensure_study
from fhir_adapter.results import publish
from fhir_adapter.signoff import Signer, sign
from fhir_adapter.token_source import StaticToken
from imaging_core.sites import Site
from tests.fhir_adapter.analyses import finding, result
from tests.fhir_adapter.headers import instance, study
from tests.fhir_servers import azure

Resource = dict[str, Any]
SIGNER = Signer("Dr Marie Curie", "https://ehr.example/fhir", "Practitioner/7")
BEFORE: dict[str, azure.Fault] = {
    "throttled": azure.throttled(),
    "away": azure.away,
    "gateway page": azure.gateway_page,
    "page with 200": azure.welcome_page,
}
AFTER: dict[str, azure.Fault] = {
    "time-out after it was done": azure.applied_then_gateway_page,
    "hung up after it was done": azure.applied_then_hung_up,
    "truncated after it was done": azure.applied_then_truncated,
}


@pytest.fixture
def proxy(fhir_service: tuple[str, str]) -> Iterator[azure.AzureProxy]:
    opened = azure.AzureProxy(fhir_service[0])
    yield opened
    opened.close()


@pytest.fixture
def cloud(proxy: azure.AzureProxy, fhir_service: tuple[str, str]) -> Iterator[FhirClient]:
    """A client that reaches the server through the proxy, and does not really wait between its tries."""
    retry = Retry(sleep=lambda _: None)
    with FhirClient(proxy.base_url, StaticToken(fhir_service[1]), 2.0, retry=retry) as opened:
        yield opened


def is_write(request: azure.Request) -> bool:
    return request.writes


def is_batch(request: azure.Request) -> bool:
    return request.bundle.get("type") == "batch"


def versions(client: FhirClient, names: list[str]) -> dict[str, int]:
    return {name: len(client.history(*name.split("/"))) for name in names}


@pytest.mark.requirement("I2", "I4")
@pytest.mark.parametrize("name", [*BEFORE, *AFTER])
def test_a_study_is_registered_once_whatever_happens_to_its_transaction(
    cloud: FhirClient, client: FhirClient, proxy: azure.AzureProxy, site: Site, name: str
) -> None:
    headers = study(3)
    proxy.next({**BEFORE, **AFTER}[name], is_write)
    outcome = ensure_study(cloud, headers, site, "create", endpoint_address=f"https://{uuid.uuid4()}.example/dicomweb")
    assert isinstance(outcome, Registered)
    assert proxy.pending == 0
    held = [f"ImagingStudy/{outcome.imaging_study_id}", outcome.subject]
    assert versions(client, held) == dict.fromkeys(held, 1)


@pytest.mark.requirement("I2", "I4", "R7")
@pytest.mark.parametrize("name", [*BEFORE, *AFTER])
def test_a_result_is_published_once_whatever_happens_to_its_transaction(
    cloud: FhirClient, client: FhirClient, proxy: azure.AzureProxy, site: Site, name: str
) -> None:
    header = instance()
    ensure_study(client, [header], site, "create")
    made = result(header)
    proxy.next({**BEFORE, **AFTER}[name], lambda request: request.bundle.get("type") == "transaction")
    published = publish(cloud, made)
    assert proxy.pending == 0
    held = [item for item in published.resources if not item.startswith("Device/")]
    assert versions(client, held) == dict.fromkeys(held, 1)
    assert publish(cloud, made).written == ()


@pytest.mark.requirement("I4")
@pytest.mark.parametrize("name", [*BEFORE, *AFTER])
def test_reads_and_searches_are_tried_again(
    cloud: FhirClient, client: FhirClient, proxy: azure.AzureProxy, name: str
) -> None:
    patient = client.update(
        {"resourceType": "Patient", "id": str(uuid.uuid4()), "name": [{"family": uuid.uuid4().hex}]}
    )
    fault = {**BEFORE, **AFTER}[name]
    proxy.next(fault, times=2)
    assert cloud.read("Patient", patient["id"]) == patient
    proxy.next(fault, times=2)
    family = patient["name"][0]["family"]
    assert [item["id"] for item in cloud.search("Patient", {"family": family})] == [patient["id"]]
    proxy.next(fault, times=2)
    assert cloud.read_many([f"Patient/{patient['id']}", f"Patient/{uuid.uuid4()}"]) == [patient, None]
    assert proxy.pending == 0


@pytest.mark.requirement("I4")
def test_throttled_entries_of_a_batch_are_asked_for_again(
    cloud: FhirClient, client: FhirClient, proxy: azure.AzureProxy
) -> None:
    held = [client.update({"resourceType": "Patient", "id": str(uuid.uuid4())}) for _ in range(5)]
    proxy.next(azure.throttled_entries, is_batch, times=2)
    assert cloud.read_many([f"Patient/{item['id']}" for item in held]) == held
    assert [len(request.bundle["entry"]) for request in proxy.requests] == [5, 3, 2]


@pytest.mark.requirement("I4")
def test_entries_that_stay_throttled_are_retryable(cloud: FhirClient, proxy: azure.AzureProxy) -> None:
    proxy.next(azure.throttled_entries, is_batch, times=9)
    with pytest.raises(FhirRetryable) as caught:
        cloud.read_many(["Patient/a"])
    assert caught.value.status == 429


@pytest.mark.requirement("I4")
def test_an_entry_that_failed_inside_a_transaction_is_no_success(cloud: FhirClient, proxy: azure.AzureProxy) -> None:
    def answered(status: str) -> azure.Fault:
        body = {"resourceType": "Bundle", "entry": [{"response": {"status": status}}]}
        return lambda _request, _forward: azure.Answer(
            200, json.dumps(body).encode(), {"Content-Type": "application/fhir+json"}
        )

    entry = put_entry({"resourceType": "Patient", "id": "x"}, None)
    for status, error in (
        ("429", FhirRetryable),
        ("412 Precondition Failed", PreconditionFailed),
        ("400", FhirPermanent),
    ):
        proxy.next(answered(status))
        with pytest.raises(error):
            cloud.transaction([entry])


@pytest.mark.requirement("I3")
def test_five_hundred_entries_are_never_reached(cloud: FhirClient, proxy: azure.AzureProxy, site: Site) -> None:
    ensure_study(cloud, study(1000, 4), site, "create")
    assert max(len(request.bundle.get("entry") or []) for request in proxy.requests) <= 100
    with pytest.raises(FhirPermanent):  # and the proxy does refuse it
        cloud.get_many([f"Patient/{number}" for number in range(501)])


@pytest.mark.requirement("I2")
def test_workers_that_race_for_a_new_patient_make_one(
    cloud: FhirClient, client: FhirClient, proxy: azure.AzureProxy, site: Site
) -> None:
    """Nothing leans on conditional create, which is not atomic there."""
    barrier = threading.Barrier(4, timeout=20)

    def together(_request: azure.Request, forward: Callable[[], azure.Answer]) -> azure.Answer:
        barrier.wait()
        return forward()

    proxy.next(together, lambda request: request.path.endswith("Patient/_search"), times=4)
    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(lambda _: ensure_study(cloud, [instance()], site, "create"), range(4)))
    assert len({item.subject for item in outcomes if isinstance(item, Registered)}) == 1
    found = list(client.search("Patient", {"identifier": f"{site.assigner_system}|4711"}))
    assert len(found) == 1
    assert not [request for request in proxy.requests if "if-none-exist" in request.headers]
    assert not [
        entry
        for request in proxy.requests
        for entry in request.bundle.get("entry") or []
        if "ifNoneExist" in entry["request"] or ("?" in entry["request"]["url"] and entry["request"]["method"] != "GET")
    ]


@pytest.mark.requirement("R6", "R7")
@pytest.mark.parametrize("name", [*AFTER])
def test_a_signature_whose_answer_is_lost_counts_once(
    cloud: FhirClient, client: FhirClient, proxy: azure.AzureProxy, site: Site, name: str
) -> None:
    header = instance()
    ensure_study(client, [header], site, "create")
    published = publish(client, result(header))
    report = client.read("DiagnosticReport", str(published.report_id))
    assert report
    proxy.next(AFTER[name], is_write)
    kept: list[Resource] = []
    signed = sign(cloud, report["id"], report["meta"]["versionId"], SIGNER, kept.append)
    assert signed.report["status"] == "final"
    assert len(kept) == 1
    assert versions(client, [f"DiagnosticReport/{report['id']}"]) == {f"DiagnosticReport/{report['id']}": 2}
    assert publish(client, result(header, finding("absent", 0.1))).revision == 1


@pytest.mark.requirement("I4")
def test_a_slow_service_is_given_up_in_time(proxy: azure.AzureProxy, fhir_service: tuple[str, str]) -> None:
    def hangs(_request: azure.Request, _forward: Callable[[], azure.Answer]) -> azure.Answer:
        proxy.released.wait(30)
        return azure.Answer(200, b"{}")

    retry = Retry(tries=2, sleep=lambda _: None)
    with FhirClient(proxy.base_url, StaticToken(fhir_service[1]), 0.3, retry=retry) as impatient:
        proxy.next(hangs, times=2)
        with pytest.raises(FhirRetryable, match="no answer"):
            impatient.read("Patient", "a")
    assert proxy.pending == 0


@pytest.mark.requirement("I4")
def test_no_more_calls_at_once_than_are_allowed(proxy: azure.AzureProxy, fhir_service: tuple[str, str]) -> None:
    running, most = 0, 0
    lock = threading.Lock()
    enough = threading.Event()

    def counted(_request: azure.Request, forward: Callable[[], azure.Answer]) -> azure.Answer:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
            if most == 3:
                enough.set()
        enough.wait(10)
        answer = forward()
        with lock:
            running -= 1
        return answer

    proxy.next(counted, times=12)
    with (
        FhirClient(proxy.base_url, StaticToken(fhir_service[1]), max_connections=3) as bounded,
        ThreadPoolExecutor(12) as pool,
    ):
        assert list(pool.map(lambda _: bounded.read("Patient", str(uuid.uuid4())), range(12))) == [None] * 12
    assert most == 3


@pytest.mark.requirement("D43")
def test_an_error_carries_its_outcome_without_phi(cloud: FhirClient, proxy: azure.AzureProxy) -> None:
    proxy.next(lambda _request, _forward: azure.outcome(422, "invariant", "Patient Quibblethwaite: obs-6 failed"))
    with pytest.raises(FhirPermanent) as caught:
        cloud.update({"resourceType": "Patient", "id": "a", "name": [{"family": "Quibblethwaite"}]})
    (issue,) = caught.value.issues
    assert (issue.severity, issue.code) == ("error", "invariant")
    assert "obs-6" in issue.text
    assert "Quibblethwaite" not in issue.text


@pytest.mark.requirement("I4")
def test_connections_are_used_again(cloud: FhirClient, proxy: azure.AzureProxy) -> None:
    ports: set[str] = set()
    proxy.next(lambda request, forward: (ports.add(request.headers["x-ms-client-request-id"]), forward())[1], times=5)
    for _ in range(5):
        cloud.read("Patient", str(uuid.uuid4()))
    assert len(ports) == 5, "each call has an id of its own"
    pool = cloud._http._transport._pool  # type: ignore[attr-defined]  # httpx shows its pool nowhere else
    assert len(pool.connections) == 1
