"""The example of the README runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from smart_launch import Keyring
from tests.conftest import Stores
from tests.smart_launch.scene import GRANTED, query_of
from tests.smart_launch.strict_ehr import StrictEhr

README = Path(__file__).resolve().parents[2] / "smart_launch" / "README.md"


@pytest.mark.requirement("S5", "S67", "S79")
def test_the_example_is_a_working_app(
    ehr: StrictEhr, stores: Stores, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = re.search(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    assert found is not None
    source = found[1]
    assert len([line for line in source.splitlines() if line.strip()]) <= 30
    registrations = tmp_path / "ehrs.toml"
    registrations.write_text(
        f'[[ehr]]\nname = "ehr-a"\niss = "{ehr.iss}"\nclient_id = "{ehr.client_id}"\nclient_auth = "none"\n'
        f'scopes = "{GRANTED}"\n',
        "utf-8",
    )
    monkeypatch.setenv("DATABASE_URL", stores.url("imaging_page"))
    monkeypatch.setenv("SMART_REGISTRATIONS", str(registrations))
    monkeypatch.setenv("APP_KEYS", Keyring.new_key("k1"))
    monkeypatch.setenv("APP_BASE_URL", "https://app.example")
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(source, "README.md", "exec"), names)  # noqa: S102 - the example itself is what is tested
    with names["pool"]:
        browser = names["app"].test_client()
        ehr.resources["Patient/p1"] = {"resourceType": "Patient", "id": "p1", "name": [{"family": "<b>Dupont</b>"}]}
        begun = browser.get(f"/launch?iss={ehr.iss}&launch=x", base_url="https://app.example")
        query = "&".join(f"{name}={value}" for name, value in ehr.grant(query_of(begun.location)).items())
        opened = browser.get(f"/callback/ehr-a?{query}", base_url="https://app.example")
        page = browser.get(opened.location, base_url="https://app.example")
        assert "<h1>&lt;b&gt;Dupont&lt;/b&gt;</h1>" in page.text
        token = re.search(r'name="csrf_token" value="([^"]+)"', page.text)
        assert token is not None
        left = browser.post(f"{opened.location}logout", data={"csrf_token": token[1]}, base_url="https://app.example")
        assert "You are signed out" in left.text
        assert len(ehr.revoked) == 2
        assert browser.get(opened.location, base_url="https://app.example").status_code == 401


def test_the_public_names_are_those_of_the_readme() -> None:
    import smart_launch

    text = README.read_text("utf-8")
    named = set(re.findall(r"`([A-Z][A-Za-z]+)`", text)) & set(smart_launch.__all__)
    for name in ("SmartLaunch", "LaunchSession", "FhirSession", "BackendServices", "SessionStore", "LaunchError"):
        assert name in named
    for name in smart_launch.__all__:
        assert getattr(smart_launch, name).__doc__, name
