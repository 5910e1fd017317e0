"""Whatever the environment says, an error of the app shows nothing of its inside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from imaging_core.settings import Settings
from tests.clinician_app.conftest import Clinic, registration


@pytest.mark.requirement("XI1")
def test_flask_debug_is_without_effect(
    make_clinic: Callable[..., Clinic], settings: Settings, charts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLASK_DEBUG", "1")
    monkeypatch.setenv("PLANTED", "planted-in-the-environment")
    clinic = make_clinic(registration(settings.fhir_base_url))
    assert not clinic.app.debug

    def fail() -> Any:
        raise RuntimeError("planted-in-the-error")

    clinic.app.add_url_rule("/fail", "fail", fail)
    page = clinic.get("/fail")
    assert page.status_code == 500
    for word in ("planted", "Traceback", "RuntimeError", "clinician_app/"):
        assert word not in page.text
    assert clinic.get("/console").status_code == 404
