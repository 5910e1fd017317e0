"""The OpenAPI document is true: schemathesis sends what it allows, and what it forbids, to the running host."""

from __future__ import annotations

import json
from datetime import date, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS

from imaging_core.settings import Settings
from ingestion_functions.openapi import document
from tests.dicom_samples import instance, jpeg, multipart, part10, png
from tests.ingestion_functions.conftest import Running

ADMIN = ("holds", "hold", "hold_resolution", "quarantine", "quarantined", "quarantine_decision")
# The Functions host answers 404 to a method that no function has, on Azure as here; the check wants 405.
NOT_OURS = ("unsupported_method",)

schemathesis.openapi.media_type("application/dicom", st.builds(lambda: part10(instance())))
schemathesis.openapi.media_type("multipart/related", st.builds(lambda: multipart(part10(instance()))[0]))
schemathesis.openapi.media_type("image/png", st.integers(0, 1000).map(lambda seed: png((8, 8), seed=seed)))
schemathesis.openapi.media_type("image/jpeg", st.integers(0, 1000).map(lambda seed: jpeg(seed=seed)))


def _text(most: int, forbidden: str) -> st.SearchStrategy[str]:
    letters = st.characters(exclude_categories=("C", "Z"), exclude_characters=forbidden)
    return st.text(letters, min_size=1, max_size=most)


_UID = st.integers(1, 2**100).map(lambda number: f"2.25.{number}")
for name, strategy in {
    "plain-text": _text(16, "\\"),
    "name-part": _text(30, "\\^="),
    "dicom-code": st.sampled_from(["DX", "CR", "CHEST", "PA"]),
    "dicom-uid": _UID,
    "hold-tag": st.integers(0, 99).map(lambda number: f'"{number}"'),
    "birth-date": st.dates(date(1900, 1, 1), date(2020, 1, 1)).map(str),
    "moment": st.datetimes(datetime(2000, 1, 1), datetime(2020, 1, 1)).map(lambda when: when.isoformat()),
    "dicom-accept": st.sampled_from(["application/dicom+json", "application/dicom+xml", "*/*"]),
}.items():
    schemathesis.openapi.format(name, strategy)


@pytest.fixture(scope="module")
def api(running: Running) -> Any:
    found = httpx.get(f"{running.url}/openapi.json").raise_for_status().json()
    loaded = schemathesis.openapi.from_dict(found)
    loaded.config.update(base_url=running.url)
    return loaded


OPERATIONS = sorted(
    operation["operationId"] for item in document(Settings())["paths"].values() for operation in item.values()
)


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: str(mode.value))
@pytest.mark.parametrize("identifier", OPERATIONS)
def test_the_service_does_as_the_document_says(
    running: Running, api: Any, identifier: str, mode: GenerationMode
) -> None:
    token = running.admin_token if identifier in ADMIN else running.token
    operation = api.find_operation_by_id(identifier)

    @settings(
        max_examples=10,
        derandomize=True,
        database=None,
        deadline=None,
        phases=(Phase.explicit, Phase.generate),
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case: Any) -> None:
        case.headers = case.headers or {}
        if case.media_type == "multipart/related":
            case.headers["Content-Type"] = multipart()[1]
        case.call_and_validate(
            headers={"Authorization": f"Bearer {token}"},
            excluded_checks=[CHECKS.get_one(name) for name in NOT_OURS],
        )

    try:
        check()
    except Unsatisfiable:
        assert mode is GenerationMode.NEGATIVE, "there is a request that the document allows"


def test_the_document_names_every_route_of_the_app() -> None:
    source = (Path(__file__).parents[2] / "ingestion_functions" / "function_app.py").read_text("utf-8")
    routes = {
        (line.split('route="')[1].split('"')[0], line.split('methods=["')[1].split('"')[0].lower())
        for line in source.splitlines()
        if line.startswith("@app.route(")
    }
    described = {
        (path.removeprefix("/"), method) for path, item in document(Settings())["paths"].items() for method in item
    }
    assert described == routes


def test_limits_are_the_settings_in_force() -> None:
    text = json.dumps(document(Settings(max_parts=17)))
    assert "MAX_PARTS = 17" in text
