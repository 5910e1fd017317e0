"""Every way by which the machine could touch a signed report, and it stays untouched (R6, R7)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from fhir_adapter.client import FhirClient
from fhir_adapter.errors import PreconditionFailed
from fhir_adapter.findings import AnalysisResult, InputImage
from fhir_adapter.register import Registered, ensure_study
from fhir_adapter.results import publish
from fhir_adapter.signoff import Signer, amend, reject, restore, sign
from imaging_core.sites import Site
from tests.fhir_adapter.analyses import MODEL, finding, not_analysed, result
from tests.fhir_adapter.conftest import Wire
from tests.fhir_adapter.headers import fresh_uid, instance

Resource = dict[str, Any]
SIGNER = Signer("Dr Marie Curie", "https://ehr.example/fhir", "Practitioner/7")
_SIGNED = ("final", "amended", "corrected", "cancelled")


@pytest.fixture
def header(client: FhirClient, site: Site) -> Resource:
    made = instance()
    assert isinstance(ensure_study(client, [made], site, "create"), Registered)
    return made


def latest(client: FhirClient, id_: str) -> Resource:
    report = client.read("DiagnosticReport", id_)
    assert report
    return report


def signed(client: FhirClient, header: Resource, act: str = "sign") -> Resource:
    """Publish and let a person act; return the report as it is then."""
    id_ = str(publish(client, result(header)).report_id)
    version = latest(client, id_)["meta"]["versionId"]
    if act == "reject":
        reject(client, id_, version, SIGNER, lambda _: None, "blurred")
    else:
        done = sign(client, id_, version, SIGNER, lambda _: None)
        if act != "sign":
            status: Any = {"amend": "amended", "correct": "corrected"}[act]
            amend(client, id_, done.version_id, SIGNER, lambda _: None, "why", status=status)
    return latest(client, id_)


def belongings(client: FhirClient, report: Resource) -> dict[str, Resource | None]:
    """Return the report and everything that it names, each as it is now."""
    names = [f"DiagnosticReport/{report['id']}", *(item["reference"] for item in report["result"])]
    names += [item["link"]["reference"] for item in report.get("media") or []]
    return dict(zip(names, client.read_many(names), strict=True))


def late_image(header: Resource, *findings: Any) -> AnalysisResult:
    made = result(header, *findings)
    return dataclasses.replace(
        made, instances=(*made.instances, InputImage(fresh_uid(), made.instances[0].series_uid, "ef" * 32))
    )


CAUSES: dict[str, Callable[[Resource], AnalysisResult]] = {
    "a re-drive": lambda header: result(header),
    "a late image that changes nothing": late_image,
    "a late image that changes the state": lambda header: late_image(header, finding("absent", 0.1)),
    "a rebuild years later": lambda header: result(header, created="2031-01-01T00:00:00Z"),
    "another version of the model": lambda header: result(header, model=dataclasses.replace(MODEL, version="9")),
    "another version that disagrees": lambda header: result(
        header, finding("absent", 0.1), model=dataclasses.replace(MODEL, version="9")
    ),
    "the same model that disagrees with itself": lambda header: result(header, finding("indeterminate", 0.5)),
    "a model of other findings": lambda header: result(
        header, finding(code="RID5350", display="effusion", key="effusion")
    ),
    "an input that is refused now": lambda header: not_analysed(header, "out-of-distribution"),
    "no model any more": lambda header: not_analysed(header, "no-model"),
    "another language": lambda header: result(header, language="fr"),
    "without a key image": lambda header: result(header, key_image="", key_image_picture=b""),
}


@pytest.mark.requirement("R6", "R7")
@pytest.mark.parametrize("act", ["sign", "amend", "correct", "reject"])
@pytest.mark.parametrize("cause", CAUSES)
def test_no_cause_touches_what_a_person_has_decided(client: FhirClient, header: Resource, act: str, cause: str) -> None:
    report = signed(client, header, act)
    assert report["status"] in _SIGNED
    before = belongings(client, report)
    for _ in range(2):
        again = publish(client, CAUSES[cause](header))
        assert report["id"] not in " ".join(again.written)
    assert belongings(client, report) == before
    if again.revision:
        newer = latest(client, str(again.report_id))
        assert newer["status"] == "preliminary"
        assert newer["id"] != report["id"]


@pytest.mark.requirement("R6", "R7", "I2")
@pytest.mark.parametrize("step", range(4))
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("cause", ["a late image that changes the state", "another version of the model"])
def test_a_signer_who_comes_at_any_step_wins(
    client: FhirClient, header: Resource, wire: Wire, step: int, moment: str, cause: str
) -> None:
    """The signature falls before or after each request of a run that has already begun."""
    id_ = str(publish(client, result(header)).report_id)
    count = 0
    kept: dict[str, Resource | None] = {}

    def sign_now() -> None:
        nonlocal count
        count += 1
        if count == step + 1 and not kept:
            kept["signing"] = None
            report = latest(client, id_)
            try:
                sign(client, id_, report["meta"]["versionId"], SIGNER, lambda _: None)
            except PreconditionFailed:
                return  # the machine was faster, the person is told
            kept.update(belongings(client, latest(client, id_)))

    def before(_request: httpx.Request) -> httpx.Response | None:
        if moment == "before" and "signing" not in kept:
            sign_now()
        return None

    def after(_request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if moment == "after" and "signing" not in kept:
            response.read()
            sign_now()
        return response

    wire.before, wire.after = before, after
    publish(client, CAUSES[cause](header))
    wire.before, wire.after = lambda _: None, lambda _, response: response
    kept.pop("signing", None)
    if kept:
        report = latest(client, id_)
        assert report["status"] == "final"
        assert belongings(client, report) == kept
    # whoever was first: one more run changes nothing that is signed
    settled = belongings(client, latest(client, id_))
    publish(client, CAUSES[cause](header))
    if latest(client, id_)["status"] == "final":
        assert belongings(client, latest(client, id_)) == settled


@pytest.mark.requirement("R6", "R7")
def test_a_signature_is_restored_and_then_stands(client: FhirClient, header: Resource) -> None:
    """The FHIR store was lost: the machine has published anew before the copies come back."""
    copies: list[Resource] = []
    id_ = str(publish(client, result(header)).report_id)
    sign(client, id_, latest(client, id_)["meta"]["versionId"], SIGNER, copies.append, conclusion="Clear.")
    for name, resource in belongings(client, latest(client, id_)).items():
        assert resource
        client.update({**resource, "status": "registered" if "Report" in name else "preliminary"})
    publish(client, result(header, finding("absent", 0.1)))
    assert restore(client, copies[0])
    report = latest(client, id_)
    assert (report["status"], report["conclusion"]) == ("final", "Clear.")
    before = belongings(client, report)
    publish(client, result(header, finding("absent", 0.1)))
    assert belongings(client, report) == before


_STATES = st.sampled_from(["present", "absent", "indeterminate"])
_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), _STATES, st.sampled_from(["1.0.0", "2.0.0"])),
        st.tuples(st.just("sign"), _STATES, st.just("")),
        st.tuples(st.just("reject"), st.just(""), st.just("")),
        st.tuples(st.just("amend"), _STATES, st.just("")),
    ),
    min_size=2,
    max_size=8,
)


@pytest.mark.requirement("R7", "I1")
@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],
)
@given(_STEPS)
def test_any_history_of_runs_and_acts(client: FhirClient, site: Site, steps: list[tuple[str, str, str]]) -> None:
    header = instance(StudyInstanceUID=fresh_uid())
    ensure_study(client, [header], site, "create")
    decided: dict[str, Mapping[str, Resource | None]] = {}
    newest = ""
    for name, state, version in steps:
        if name == "publish":
            model = dataclasses.replace(MODEL, version=version)
            wanted: Any = finding(state, 0.5)  # type: ignore[arg-type]  # drawn from the states
            done = publish(client, result(header, wanted, model=model))
            newest = str(done.report_id)
            assert done.revision <= len(decided), "a revision follows a decision, nothing else"
        elif newest:
            report = latest(client, newest)
            keys = {item["reference"].removeprefix("Observation/"): state for item in report["result"] if state}
            seen = report["meta"]["versionId"]
            try:
                if name == "sign":
                    sign(client, newest, seen, SIGNER, lambda _: None, findings=keys)  # type: ignore[arg-type]  # as above
                elif name == "reject":
                    reject(client, newest, seen, SIGNER, lambda _: None, "x")
                else:
                    amend(client, newest, seen, SIGNER, lambda _: None, "x", findings=keys)  # type: ignore[arg-type]  # as above
            except PreconditionFailed:
                continue
            decided[newest] = belongings(client, latest(client, newest))
        for id_, expected in decided.items():
            if name == "publish" or id_ != newest:
                assert belongings(client, latest(client, id_)) == expected
