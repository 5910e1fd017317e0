"""`docs/fhir.md`: up to date, its examples valid, its commands run on two servers and by a foreign client."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fhir_adapter.client import FhirClient
from fhir_adapter.register import Registered, ensure_study
from fhir_adapter.results import publish
from imaging_core.sites import Site
from tests import fhir_page, fhir_servers, fhir_validation
from tests.fhir_adapter.analyses import result
from tests.fhir_adapter.headers import instance

Resource = dict[str, Any]


@pytest.fixture
def known(client: FhirClient, fhir_service: tuple[str, str], site: Site) -> dict[str, str]:
    """A patient with a study and a report, as the variables of the page's commands."""
    header = instance(AccessionNumber="A1001")
    outcome = ensure_study(client, [header], site, "create", endpoint_address="https://app.example/dicomweb")
    assert isinstance(outcome, Registered)
    published = publish(client, result(header))
    return {
        "FHIR": fhir_service[0],
        "TOKEN": fhir_service[1],
        "PATIENT": outcome.subject.removeprefix("Patient/"),
        "STUDY": header["0020000D"]["Value"][0],
        "ACCESSION": "A1001",
        "ASSIGNER": site.assigner_system,
        "NUMBER": "4711",
        "REPORT": str(published.report_id),
    }


def commands() -> list[str]:
    block = fhir_page.PAGE.read_text("utf-8").split("```sh\n")[1].split("```")[0]
    return [line for line in block.splitlines() if line.startswith("curl")]


def kinds(bundle: Resource) -> set[str]:
    return {entry["resource"]["resourceType"] for entry in bundle.get("entry") or []}


def test_the_page_is_current() -> None:
    assert fhir_page.PAGE.read_text("utf-8") == fhir_page.page(), "run `python -m tests.fhir_page`"


@pytest.mark.requirement("R1", "R2", "R4", "R5", "A1", "M1", "P3")
def test_the_examples_are_valid(
    validate_resources: Callable[[list[Resource]], list[fhir_validation.Issue]],
) -> None:
    assert validate_resources(list(fhir_page.examples().values())) == []


@pytest.mark.shared
@pytest.mark.requirement("R1", "R2", "P3")
def test_the_examples_conform_to_us_core(shared_data: Path, tmp_path: Path) -> None:
    fhir_validation.install()
    folder = fhir_validation.unpack_us_core(shared_data.parent / "fhir" / "us_core_610.tgz", tmp_path)
    issues = fhir_validation.validate(fhir_page.examples().values(), folder)
    assert fhir_validation.errors(issues) == []


@pytest.mark.requirement("R1", "R2", "M1", "M9")
def test_the_commands_find_what_they_say(known: dict[str, str]) -> None:
    expected = [
        *[{"DiagnosticReport"}] * 5,
        {"DiagnosticReport", "Observation", "Patient", "Media"},
        {"DiagnosticReport"},
        {"Observation"},
        {"ImagingStudy"},
        {"ImagingStudy", "Endpoint"},
        {"Patient"},
    ]
    lines = commands()
    assert len(lines) == len(expected) == len(fhir_page.SEARCHES)
    for line, wanted in zip(lines, expected, strict=True):
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, env={**os.environ, **known})
        assert done.returncode == 0, (line, done.stderr)
        assert kinds(json.loads(done.stdout)) == wanted, line


@pytest.mark.requirement("R1", "R2", "M1")
def test_fhir_kit_client_reads_the_same(known: dict[str, str]) -> None:
    """Npm fhir-kit-client as another EHR's library."""
    fhir_servers.install()
    searches = []
    for _, search in fhir_page.SEARCHES:
        for name, value in known.items():
            search = search.replace(f"${name}", value)
        kind, _, query = search.partition("?")
        parameters: dict[str, Any] = {}
        for key, _, value in (pair.partition("=") for pair in query.split("&")):
            held = parameters.get(key)
            parameters[key] = value if held is None else [*(held if isinstance(held, list) else [held]), value]
        searches.append([kind, parameters])
    searches.append(["DiagnosticReport", {"patient": known["PATIENT"], "_count": "1"}])
    environment = {**fhir_validation.environment(), "FHIR_BASE": known["FHIR"], "FHIR_TOKEN": known["TOKEN"]}
    done = subprocess.run(
        [fhir_validation.program("node"), str(fhir_servers.FOLDER / "ehr_reader.mjs")],
        input=json.dumps(searches),
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    answers: list[list[str]] = json.loads(done.stdout)
    for found, (kind, _) in zip(answers, searches, strict=True):
        assert any(name.startswith(f"{kind}/") for name in found)
    assert f"DiagnosticReport/{known['REPORT']}" in answers[0]
    assert answers[-1] == [f"DiagnosticReport/{known['REPORT']}"]
