"""What lies in the data folder: certificates, credentials, PostgreSQL's roles."""

from __future__ import annotations

import ssl
import stat
import tomllib
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.verification import PolicyBuilder, Store

from infra.local import ca
from infra.local.configuration import Layout, Ports
from infra.local.credentials import app_client_key, load_credentials, write_private
from infra.local.postgres import ROLES, database_url
from infra.local.stack import build
from infra.local.supervisor import Supervisor

from .conftest import free_ports
from .test_supervisor import running


@pytest.mark.parametrize("name", ca.NAMES)
def test_certificate_verifies_for_every_name(tmp_path: Path, name: str) -> None:
    found = ca.ensure_certificates(Layout.at(tmp_path))
    store = Store([x509.load_pem_x509_certificate(found.ca_file.read_bytes())])
    leaf = x509.load_pem_x509_certificate(found.certificate.read_bytes())
    verifier = PolicyBuilder().store(store).build_server_verifier(x509.DNSName(name))
    assert verifier.verify(leaf, [])
    ssl.create_default_context(cafile=str(found.ca_file))


def test_certificates_stay_until_they_are_about_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = Layout.at(tmp_path)
    first = ca.ensure_certificates(layout)
    authority, leaf = first.ca_file.read_bytes(), first.certificate.read_bytes()
    assert ca.ensure_certificates(layout).certificate.read_bytes() == leaf
    monkeypatch.setattr(ca, "_RENEW_BEFORE", timedelta(days=398))
    renewed = ca.ensure_certificates(layout)
    assert renewed.certificate.read_bytes() != leaf
    assert renewed.ca_file.read_bytes() == authority
    ends = x509.load_pem_x509_certificate(renewed.certificate.read_bytes()).not_valid_after_utc
    assert ends - datetime.now(UTC) < timedelta(days=398)


def test_ca_signs_for_localhost_only(tmp_path: Path) -> None:
    found = ca.ensure_certificates(Layout.at(tmp_path))
    authority = x509.load_pem_x509_certificate(found.ca_file.read_bytes())
    permitted = authority.extensions.get_extension_for_class(x509.NameConstraints)
    assert permitted.critical
    assert {str(subtree.value) for subtree in permitted.value.permitted_subtrees or ()} == {"localhost", "127.0.0.1/32"}


def test_secrets_are_made_once_and_readable_by_their_owner_alone(tmp_path: Path) -> None:
    layout = Layout.at(tmp_path)
    ca.ensure_certificates(layout)
    first = load_credentials(layout)
    key_file = app_client_key(layout)
    assert load_credentials(layout) == first
    assert first.fhir_token not in repr(first)
    assert load_pem_private_key(key_file.read_bytes(), None).curve.name == "secp384r1"  # type: ignore[union-attr]
    for path in (layout.credentials, key_file, layout.keys / "ca.key", layout.keys / "server.key"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_registration_of_the_sandbox_ehr(tmp_path: Path) -> None:
    layout = Layout.at(tmp_path)
    ports = Ports.from_settings(free_ports())
    build(layout, ports, ["fhir"])
    (ehr,) = tomllib.loads(layout.registrations.read_text())["ehr"]
    assert ehr["iss"] == f"https://ehr.localhost:{ports.ehr}/fhir"
    assert ehr["frame_ancestors"] == [f"https://ehr.localhost:{ports.ehr}"]
    assert Path(ehr["key"].removeprefix("file:")).exists()
    assert ehr["ca_file"] == str(layout.ca_file)


def test_postgres_roles_are_no_superusers_need_passwords_and_data_stays(tmp_path: Path) -> None:
    layout = Layout.at(tmp_path)
    ports = Ports.from_settings(free_ports())
    stack = build(layout, ports, ["postgres"])
    with running(stack):
        with psycopg.connect(database_url(stack.credentials, ports.postgres, "imaging_owner")) as connection:
            rows = connection.execute(
                "SELECT rolname, rolsuper OR rolcreaterole OR rolcreatedb OR rolbypassrls FROM pg_roles"
                " WHERE rolname = ANY(%s)",
                (list(ROLES),),
            ).fetchall()
            assert sorted(rows) == sorted((role, False) for role in ROLES)
            components = connection.execute("SELECT DISTINCT component FROM public.schema_migration").fetchall()
            assert ("imaging_core",) in components
            connection.execute("CREATE TABLE kept (value integer)")
        address = f"postgresql://imaging_worker:wrong@127.0.0.1:{ports.postgres}/imaging"
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(address)
    with (
        running(build(layout, ports, ["postgres"])),
        psycopg.connect(database_url(stack.credentials, ports.postgres, "imaging_owner")) as connection,
    ):
        assert connection.execute("SELECT count(*) FROM kept").fetchone() == (0,)


def test_credentials_do_not_show_in_a_part(tmp_path: Path) -> None:
    stack = build(Layout.at(tmp_path), Ports.from_settings(free_ports()), ["fhir"])
    assert stack.credentials.fhir_token not in repr(stack.part("fhir"))
    assert Supervisor(stack) is not None


def test_several_commands_write_at_once(tmp_path: Path) -> None:
    target = tmp_path / "settings.toml"
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda number: write_private(target, str(number % 2).encode() * 1000), range(200)))
    assert set(target.read_text()) in ({"0"}, {"1"})
    assert target.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["settings.toml"]
