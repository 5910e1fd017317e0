"""docs/connect_an_ehr.md: its settings are read, its commands are understood, and the check that it names is run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric import ec

from clinician_app.doctor import doctor
from clinician_app.keys_command import keys
from clinician_app.sessions_command import sessions
from smart_launch import load_registrations
from smart_launch.errors import FAULTS
from smart_launch.registration import Registration
from smart_launch.signing_keys import load_keys
from tests.smart_launch.conftest import Sandbox, pem

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "connect_an_ehr.md").read_text("utf-8")
COMMANDS: dict[str, click.Command] = {"doctor": doctor, "keys": keys, "sessions": sessions}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def read(folder: Path, text: str) -> Registration:
    (folder / "keys").mkdir(exist_ok=True)
    for name in ("mercy.pem", "mercy-system.pem"):
        (folder / "keys" / name).write_bytes(pem(ec.generate_private_key(ec.SECP384R1())))
        (folder / "keys" / name).chmod(0o600)
    (folder / "ehrs.toml").write_text(text, "utf-8")
    secrets = {"MERCY_SECRET": "s", "AZURE_MERCY_SECRET": "s"}
    (found,) = load_registrations(folder / "ehrs.toml", environment=secrets)
    return found


@pytest.mark.requirement("S1", "S28")
@pytest.mark.parametrize("number", range(len(blocks("toml"))))
def test_each_registration_is_read(tmp_path: Path, number: int) -> None:
    found = read(tmp_path, blocks("toml")[number])
    assert "launch" in found.scopes.split()
    assert "*" not in found.scopes


def test_the_explained_file_names_every_member() -> None:
    from smart_launch import registration

    explained = set(re.findall(r"^([a-z_]+) = ", blocks("toml")[0], re.MULTILINE))
    known = registration._TEXTS | registration._LISTS | registration._SWITCHES | registration._TABLES
    assert explained == known


def test_each_command_is_understood() -> None:
    lines = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("imaging ")]
    assert len(lines) >= 8
    for line in lines:
        _, name, *arguments = shlex.split(line)
        group = COMMANDS[name]
        assert isinstance(group, click.Group)
        command = group.commands[arguments[0]]
        context = command.make_context(arguments[0], arguments[1:], resilient_parsing=True)
        given = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in arguments[1:] if word.startswith("--")} <= given, line
        context.close()


def test_the_sentences_of_the_table_are_those_of_the_pages() -> None:
    table = PAGE.split("| page says | look at |")[1].split("\n\n")[0]
    sentences = [row.split("|")[1].strip() for row in table.splitlines()[2:] if row.startswith("|")]
    assert len(sentences) >= 6
    for sentence in sentences:
        assert any(sentence in entry.en[0] for entry in FAULTS.values()), sentence


@pytest.mark.requirement("S45", "XF4")
def test_the_key_is_made_and_rotated_as_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import subprocess

    monkeypatch.chdir(tmp_path)
    (tmp_path / "keys").mkdir()
    block = next(block for block in blocks("sh") if "openssl" in block)
    counts = []
    for line in block.splitlines():
        words = shlex.split(line)
        if words[0] == "imaging":
            result = CliRunner().invoke(keys, words[2:], catch_exceptions=False)
            assert result.exit_code == 0, result.output
        else:
            subprocess.run(words, check=True, capture_output=True)
        path = tmp_path / "keys" / "mercy.pem"
        counts.append(len(load_keys(path.read_bytes())))
    assert counts == [1, 1, 2, 2, 1]
    assert path.stat().st_mode & 0o077 == 0


@pytest.mark.requirement("S13", "S16")
def test_the_check_is_run_against_an_ehr(neutral: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key.pem").write_bytes(pem(ec.generate_private_key(ec.SECP384R1())))
    (tmp_path / "key.pem").chmod(0o600)
    (tmp_path / "ehrs.toml").write_text(
        f"""
[[ehr]]
name = "mercy"
iss = "{neutral.iss}"
client_id = "imaging-app"
client_auth = "private_key_jwt"
key = "file:key.pem"
scopes = "launch openid fhirUser patient/Patient.rs"
ca_file = "{neutral.ca_file}"
""",
        "utf-8",
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SMART_REGISTRATIONS", str(tmp_path / "ehrs.toml"))
    monkeypatch.setenv("APP_BASE_URL", "https://imaging.example.org")

    def run(name: str) -> Any:
        return CliRunner().invoke(doctor, ["ehr", name], env={"COLUMNS": "200"})

    good = run("mercy")
    assert good.exit_code == 0, good.output
    assert "https://imaging.example.org/callback/mercy" in good.output
    assert "wrong" not in good.output
    assert run("nobody").exit_code != 0
    neutral.control("PUT", "state", {"discovery": {"code_challenge_methods_supported": ["plain"]}})
    bad = run("mercy")
    assert bad.exit_code == 1
    assert "S256" in bad.output
