"""Programs of the EHR at the clinician app: the sandbox's tokens, on the running stack, as the page tells it."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey

from tests.end_to_end.conftest import Stack, sample
from tests.end_to_end.test_images_to_reports import ADULT, one_report, renewed, stow
from tests.smart_launch.browser import Page
from tests.smart_launch.sandbox import Sandbox
from tests.smart_launch.test_sandbox_ehr import REDIRECT, RawClient

PAGE = (Path(__file__).parents[2] / "docs" / "connect_an_ehr.md").read_text("utf-8")
SCOPES = "launch patient/Patient.rs patient/ImagingStudy.rs patient/DiagnosticReport.rs patient/Observation.rs"
SECRET = "of-this-machine-only-0123456789ab"


class Person:
    """A patient with one chest radiograph, whose report is there."""

    def __init__(self, stack: Stack) -> None:
        data, self.study, _ = renewed(sample("RG1_UNCI.dcm"), PatientID=f"T{uuid.uuid4().hex[:8]}", **ADULT)
        with stack.client("ingestion") as ingestion, stack.client("fhir") as fhir:
            stow(ingestion, data)
            report = one_report(fhir, self.study)
        self.report = str(report["id"])
        self.id = str(report["subject"]["reference"]).removeprefix("Patient/")


@pytest.fixture(scope="module")
def people(stack: Stack) -> tuple[Person, Person]:
    return Person(stack), Person(stack)


@pytest.fixture
def sandbox(stack: Stack) -> Iterator[Sandbox]:
    found = stack.sandbox()
    yield found
    found.control("DELETE", "state")


@pytest.fixture
def viewer(sandbox: Sandbox) -> RawClient:
    """A SMART app of another vendor, registered with the sandbox and unknown to the clinician app."""
    sandbox.control(
        "POST",
        "clients",
        {
            "client_id": "tester",
            "redirect_uris": [REDIRECT],
            "token_endpoint_auth_method": "none",
            "scopes": "patient/*.rs user/*.rs",
        },
    )
    return RawClient(sandbox)


def ask(sandbox: Sandbox, token: str, path: str, **headers: str) -> Page:
    fields = {"Authorization": f"Bearer {token}", "Accept": "*/*", **headers}
    return sandbox.browser().get(f"{sandbox.app_origin}{path}", fields)


def post(sandbox: Sandbox, route: str, form: dict[str, str], **headers: str) -> Page:
    """Post a form as a program does, without what a browser adds."""
    fields = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json", **headers}
    return sandbox.browser()._send("POST", f"{sandbox.origin}/oauth/{route}", urlencode(form), fields)


def revoke(viewer: RawClient, token: str) -> None:
    assert post(viewer.sandbox, "revoke", {"token": token, "client_id": "tester"}).status == 200
    assert viewer.fhir(token, "Patient/whoever")[0] == 401


@pytest.mark.requirement("S50", "S70", "S78")
def test_an_app_with_a_patient_s_token_reads_that_patient_only(
    viewer: RawClient, people: tuple[Person, Person]
) -> None:
    mine, other = people
    sandbox, token = viewer.sandbox, viewer.token(SCOPES, mine.id)
    results = ask(sandbox, token, f"/api/results?patient={mine.id}")
    assert results.status == 200, results.text
    (result,) = json.loads(results.text)["results"]
    assert (result["report"], result["study_uid"]) == (mine.report, mine.study)
    assert result["findings"]
    (study,) = json.loads(ask(sandbox, token, "/dicomweb/studies").text)
    assert study["0020000D"]["Value"] == [mine.study]
    wanted = {"Accept": 'multipart/related; type="application/dicom"'}
    retrieved = ask(sandbox, token, f"/dicomweb/studies/{mine.study}", **wanted)
    assert retrieved.status == 200
    assert b"DICM" in retrieved.body[:2_000]
    for path in (
        f"/api/results?patient={other.id}",
        f"/dicomweb/studies?patient={other.id}",
        f"/dicomweb/studies/{other.study}",
        f"/dicomweb/studies/{other.study}/metadata",
    ):
        assert ask(sandbox, token, path).status == 404, path
    narrow = viewer.token("launch patient/Patient.rs", mine.id)
    for path in ("/api/results", "/dicomweb/studies"):
        assert ask(sandbox, narrow, path).status == 403


@pytest.mark.requirement("S78", "XD1")
def test_what_is_no_valid_token_of_the_sandbox_is_refused(viewer: RawClient, people: tuple[Person, Person]) -> None:
    sandbox, mine = viewer.sandbox, people[0]
    revoked = viewer.token(SCOPES, mine.id)
    revoke(viewer, revoked)
    _, answer = viewer.exchange(viewer.authorize(scope=f"{SCOPES} openid", launch=viewer.new_launch(mine.id))["code"])
    good = viewer.token(SCOPES, mine.id)
    signed_elsewhere = [
        jwt.encode({"alg": "ES256"}, claims, ECKey.generate_key("P-256"), algorithms=["ES256"])
        for claims in ({"iss": "https://evil.example", "patient": mine.id}, {"patient": mine.id})
    ]
    for token in (revoked, answer["id_token"], *signed_elsewhere, "made-up", good[:-1], f"{good}x"):
        for path in ("/api/results", "/dicomweb/studies"):
            refused = ask(sandbox, token, path)
            assert refused.status == 401
            assert refused.headers["WWW-Authenticate"].startswith("Bearer")
            assert json.loads(refused.text)["code"] == "unauthenticated"
    assert ask(sandbox, good, "/api/results").status == 200


def introspected(sandbox: Sandbox, token: str, client: str) -> dict[str, Any]:
    pair = base64.b64encode(f"{client}:{SECRET}".encode()).decode()
    page = post(sandbox, "introspect", {"token": token}, Authorization=f"Basic {pair}")
    assert page.status == 200, page.text
    found: dict[str, Any] = json.loads(page.text)
    return found


@pytest.mark.requirement("S78")
def test_the_sandbox_tells_of_a_token_only_whom_it_concerns(viewer: RawClient, people: tuple[Person, Person]) -> None:
    sandbox, mine = viewer.sandbox, people[0]
    for client, introspects in (("nosy", False), ("resource-server", True)):
        document = {
            "client_id": client,
            "client_secret": SECRET,
            "token_endpoint_auth_method": "client_secret_basic",
            "grant_types": ["client_credentials"],
            "response_types": [],
            "redirect_uris": [],
        }
        sandbox.control("POST", "clients", {**document, "introspects": introspects})
    launch = viewer.new_launch(mine.id)
    _, answer = viewer.exchange(viewer.authorize(scope=f"{SCOPES} openid fhirUser", launch=launch)["code"])
    token = str(answer["access_token"])
    assert introspected(sandbox, token, "nosy") == {"active": False}
    told = introspected(sandbox, token, "resource-server")
    assert told["active"] is True
    assert (told["patient"], told["client_id"], told["aud"]) == (mine.id, "tester", sandbox.iss)
    assert told["iss"] == sandbox.origin
    assert told["fhirUser"].startswith(f"{sandbox.iss}/Practitioner/")
    assert "patient/ImagingStudy.rs" in told["scope"].split()


@pytest.mark.requirement("S78", "S81")
def test_the_page_s_commands_read_results_and_images(
    stack: Stack, sandbox: Sandbox, people: tuple[Person, Person], tmp_path: Path
) -> None:
    block = next(item for item in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) if "/api/results" in item)
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "EHR": sandbox.origin,
        "APP": sandbox.app_origin,
        "DATA": str(stack.folder),
    }
    for person in people:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block],
            env={**environment, "PATIENT": person.id, "STUDY": person.study},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        results = json.loads((tmp_path / "results.json").read_text())
        assert [item["report"] for item in results["results"]] == [person.report]
        (study,) = json.loads((tmp_path / "studies.json").read_text())
        assert study["0020000D"]["Value"] == [person.study]
        assert b"DICM" in (tmp_path / "study.multipart").read_bytes()[:2_000]
