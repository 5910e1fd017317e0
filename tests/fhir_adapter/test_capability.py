from __future__ import annotations

import copy

from fhir_adapter.capability import NEEDS, lacking
from fhir_adapter.client import FhirClient


def test_the_local_server_has_all_that_is_needed(client: FhirClient) -> None:
    assert lacking(client.capabilities()) == []


def test_what_is_lacking_is_named(client: FhirClient) -> None:
    statement = copy.deepcopy(client.capabilities())
    rest = statement["rest"][0]
    rest["interaction"] = [item for item in rest["interaction"] if item["code"] != "transaction"]
    rest["resource"] = [item for item in rest["resource"] if item["type"] != "Media"]
    report = next(item for item in rest["resource"] if item["type"] == "DiagnosticReport")
    report["searchParam"] = [item for item in report["searchParam"] if item["name"] != "category"]
    report["interaction"] = [item for item in report["interaction"] if item["code"] != "vread"]
    report["updateCreate"] = False
    assert set(lacking(statement)) == {
        "system interaction transaction",
        "resource Media",
        "DiagnosticReport: search parameter category",
        "DiagnosticReport: interaction vread",
        "DiagnosticReport: PUT with an id of the client's choice (updateCreate)",
    }


def test_another_version_of_fhir() -> None:
    assert lacking({"fhirVersion": "5.0.0"}) == ["FHIR version 4.0.1 is needed, the service has 5.0.0"]
    assert len(lacking({"fhirVersion": "4.0.1"})) == 2 + len(NEEDS)
