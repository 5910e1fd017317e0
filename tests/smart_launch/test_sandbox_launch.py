"""The whole launch, between the application and the sandbox EHR, as a browser drives it."""

from __future__ import annotations

import json

import pytest

from tests.smart_launch.conftest import Sandbox


@pytest.mark.requirement("S5", "S13", "S23", "S27", "S43", "S45", "S62")
def test_launch_from_the_chart_opens_the_chart_s_patient(neutral: Sandbox) -> None:
    browser = neutral.browser()
    address = neutral.launch(browser, "smart-1")
    shown = json.loads(browser.get(address).text)
    assert shown["patient"] == "smart-1"
    assert shown["issuer"] == neutral.origin
    assert shown["subject"] == "sandbox-radiologist"
    assert shown["fhir_user"] == "Practitioner/sandbox-radiologist"
    assert shown["banner"] is False
    assert shown["may_read_studies"] is True
    assert json.loads(browser.get(f"{address}patient").text)["id"] == "smart-1"
    assert json.loads(browser.get(f"{address}studies").text) == ["smart-1-study"]
