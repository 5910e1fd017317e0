"""The registrations file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from smart_launch import SmartConfigurationError, load_registrations
from tests.smart_launch.conftest import pem

DESIGN = """\
[[ehr]]
name = "sandbox"
iss = "https://ehr.localhost:9443/fhir"      # allow-list: no other iss is ever contacted
client_id = "imaging-app"
client_auth = "private_key_jwt"              # or client_secret_basic, client_secret_post, none
client_secret = "env:SANDBOX_SECRET"         # env:NAME, file:PATH or keyvault:NAME
key = "file:keys/sandbox.pem"                # private_key_jwt: ES384 or RS384
scopes = "launch openid fhirUser online_access patient/Patient.rs patient/ImagingStudy.rs"
imaging_fhir = "same"
patient_identifier_systems = ["urn:oid:1.2.3"]
signers = "PractitionerRole.code in http://snomed.info/sct|66862007"
frame_ancestors = ["https://ehr.localhost:9443"]
issuer = ""
ca_file = ""
"""
ENVIRONMENT = {"SANDBOX_SECRET": "s3cret"}
PLAIN = {"name": "a", "iss": "https://a.example/fhir", "client_id": "c", "client_auth": "none", "scopes": "launch"}


def write(folder: Path, text: str) -> Path:
    keys = folder / "keys"
    keys.mkdir(exist_ok=True)
    (keys / "sandbox.pem").write_bytes(pem(ec.generate_private_key(ec.SECP384R1())))
    (keys / "sandbox.pem").chmod(0o600)
    file = folder / "ehrs.toml"
    file.write_text(text, "utf-8")
    return file


def table(**members: Any) -> str:
    lines = [f"{name} = {_toml(value)}" for name, value in {**PLAIN, **members}.items() if value is not None]
    return "[[ehr]]\n" + "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    import json

    return json.dumps(value)


@pytest.mark.requirement("S1", "S4", "S7")
def test_the_file_of_the_interfaces(tmp_path: Path) -> None:
    (found,) = load_registrations(write(tmp_path, DESIGN), environment=ENVIRONMENT)
    assert found.name == "sandbox"
    assert found.client_secret == "s3cret"
    assert found.signing_keys[0].curve_name == "P-384"  # type: ignore[union-attr]
    assert found.imaging_fhir == "same"
    assert found.patient_identifier_systems == ("urn:oid:1.2.3",)
    assert found.frame_ancestors == ("https://ehr.localhost:9443",)
    assert found.fhir_url == "https://ehr.localhost:9443/fhir"
    assert found.audience == "https://ehr.localhost:9443/fhir"
    assert found.origins == {"https://ehr.localhost:9443"}


@pytest.mark.requirement("S3", "S7", "S46", "XF5")
@pytest.mark.parametrize(
    "text",
    [
        "",
        "[[ehr]]",
        "not toml",
        table(unknown="x"),
        table(iss=None),
        table(iss="http://a.example/fhir"),
        table(iss="https://a.example/fhir?x=1"),
        table(iss="https://u@a.example/fhir"),
        table(iss="ftp://a.example"),
        table(name="A B"),
        table(name="../x"),
        table(client_id=""),
        table(client_auth="tls_client_auth"),
        table(client_auth="private_key_jwt"),
        table(client_auth="client_secret_basic"),
        table(client_auth="client_secret_basic", client_secret="in-the-file"),
        table(client_auth="client_secret_basic", client_secret="env:NOT_SET"),
        table(client_auth="client_secret_basic", client_secret="file:nowhere"),
        table(client_auth="client_secret_basic", client_secret="keyvault:name"),
        table(client_auth="private_key_jwt", key="file:open.pem"),
        table(scopes="patient/Patient.dus"),
        table(frame_ancestors="https://a.example"),
        table(frame_ancestors=["*"]),
        table(frame_ancestors=["https://*.example"]),
        table(frame_ancestors=["https://a.example/path"]),
        table(frame_ancestors=["https://a.example; script-src *"]),
        table(end_session="yes"),
        table(hosts=["https://a b"]),
        table() + table(iss="https://b.example/fhir"),
        table() + table(name="b"),
        table() + table(name="b", iss="https://A.EXAMPLE:443/fhir/"),
    ],
)
def test_what_is_wrong_stops_the_start(tmp_path: Path, text: str) -> None:
    file = write(tmp_path, text)
    (tmp_path / "open.pem").write_bytes((tmp_path / "keys" / "sandbox.pem").read_bytes())
    (tmp_path / "open.pem").chmod(0o644)
    with pytest.raises(SmartConfigurationError) as error:
        load_registrations(file, environment=ENVIRONMENT)
    assert "in-the-file" not in str(error.value)


def test_a_missing_file_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(SmartConfigurationError):
        load_registrations(tmp_path / "nowhere.toml")


@pytest.mark.requirement("S46")
def test_a_secret_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("from a file\n", "utf-8")
    (tmp_path / "secret").chmod(0o600)
    file = write(tmp_path, table(client_auth="client_secret_basic", client_secret="file:secret"))
    assert load_registrations(file)[0].client_secret == "from a file"


@pytest.mark.requirement("S46")
def test_a_secret_from_key_vault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    import azure.keyvault.secrets

    asked: list[tuple[str, str]] = []

    class Client:
        def __init__(self, url: str, credential: object) -> None:
            self.url = url

        def __enter__(self) -> Client:
            return self

        def __exit__(self, *_: object) -> None:
            return None

        def get_secret(self, name: str) -> Any:
            asked.append((self.url, name))
            return SimpleNamespace(value="from the vault")

    monkeypatch.setattr(azure.keyvault.secrets, "SecretClient", Client)
    file = write(tmp_path, table(client_auth="client_secret_basic", client_secret="keyvault:ehr-secret"))
    (found,) = load_registrations(file, key_vault_url="https://v.vault.azure.net")
    assert found.client_secret == "from the vault"
    assert asked == [("https://v.vault.azure.net", "ehr-secret")]
