"""Names and addresses that other people's programs rely on, walked as they stand in the interfaces' page."""

from __future__ import annotations

import json
import ssl
from pathlib import Path

import httpx
import pytest

from tests.end_to_end.conftest import Stack

ROOT = Path(__file__).parents[2]
PARTS = {"ingestion", "ai", "fhir", "app", "ehr", "blob", "postgres"}
LEDGER = {
    "accepted",
    "duplicate",
    "rejected",
    "quarantined",
    "held",
    "registered",
    "analysed",
    "not_analysed",
    "no_model",
    "failed",
    "pending",
}


def test_status_document(stack: Stack) -> None:
    found = stack.status()
    assert set(found["parts"]) == PARTS
    for part in found["parts"].values():
        assert part["healthy"] is True
        assert part["pids"]
        assert Path(part["log"]).exists()
    assert {"studies", "analyses"} <= set(found["queues"])
    assert set(found["ledger"]) >= LEDGER
    assert Path(found["ca_file"]).exists()
    secret = {name for name, part in found["parts"].items() if part.get("token")}
    assert secret >= {"ingestion", "ai", "fhir", "blob"}
    plain = json.loads(stack.run("status", "--json", "--data-dir", str(stack.folder)).stdout)
    assert not any("token" in part for part in plain["parts"].values())


@pytest.mark.parametrize(
    ("part", "method", "path"),
    [
        ("ingestion", "POST", "/dicomweb/studies"),
        ("ingestion", "POST", "/dicomweb/studies/1.2.3"),
        ("ingestion", "POST", "/images"),
        ("ingestion", "POST", "/uploads"),
        ("ingestion", "GET", "/uploads/5f7c7f0a-6a3a-4c0e-9d57-0f4b8c0c9a11"),
        ("ingestion", "GET", "/intake/5f7c7f0a-6a3a-4c0e-9d57-0f4b8c0c9a11"),
        ("ai", "POST", "/v1/analyses"),
        ("ai", "POST", "/v1/analyses:preview"),
        ("ai", "GET", "/v1/models"),
        ("fhir", "GET", "/Patient"),
    ],
)
def test_every_door_exists_and_wants_a_token(stack: Stack, part: str, method: str, path: str) -> None:
    url = stack.url(part)
    assert httpx.request(method, url + path, timeout=30).status_code == 401
    wrong = {"Authorization": "Bearer wrong"}
    assert httpx.request(method, url + path, headers=wrong, timeout=30).status_code == 401
    with stack.client(part) as client:
        assert client.request(method, path).status_code not in (401, 403, 405, 501)


@pytest.mark.parametrize(
    ("part", "path"),
    [("ingestion", "/health"), ("ingestion", "/ready"), ("ai", "/healthz"), ("ai", "/readyz"), ("ai", "/metrics")],
)
def test_probes_are_open(stack: Stack, part: str, path: str) -> None:
    assert httpx.get(stack.url(part) + path, timeout=30).status_code == 200


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/.well-known/jwks.json", {200}),
        ("/login", {200}),
        ("/launch", {400}),
        ("/callback/sandbox", {400}),
        ("/l/nothing/", {401, 403, 404}),
        ("/api/results", {401, 403}),
    ],
)
def test_app_paths(stack: Stack, path: str, status: set[int]) -> None:
    found = stack.status()
    port = httpx.URL(found["parts"]["app"]["url"]).port
    response = httpx.get(
        f"https://127.0.0.1:{port}{path}",
        headers={"Host": f"app.localhost:{port}"},
        verify=ssl.create_default_context(cafile=found["ca_file"]),
        timeout=30,
    )
    assert response.status_code in status, response.text[:500]


def test_preview_publishes_nothing(stack: Stack) -> None:
    from imaging_core.dicom.pixels import render_png
    from tests.end_to_end.conftest import sample
    from tests.end_to_end.test_images_to_reports import versions

    picture = render_png(sample("RG1_UNCI.dcm").read_bytes())
    with stack.client("ai") as ai, stack.client("fhir") as fhir:
        before = versions(fhir)
        response = ai.post("/v1/analyses:preview?heatmap=true", content=picture, headers={"Content-Type": "image/png"})
        assert response.status_code == 200, response.text
        assert versions(fhir) == before
    assert {"findings", "not_analysed", "model"} <= set(response.json())


@pytest.mark.parametrize(
    "command",
    ["up", "down", "status", "send", "intake", "holds", "redrive", "demo", "migrate", "doctor", "keys", "cache"],
)
def test_commands(stack: Stack, command: str) -> None:
    assert "Usage" in stack.run(command, "--help").stdout


@pytest.mark.parametrize("target", ["demo", "install", "test"])
def test_make_targets(target: str) -> None:
    assert f"\n{target}:" in (ROOT / "Makefile").read_text()


@pytest.mark.parametrize("arguments", [("doctor",), ("doctor", "ehr", "sandbox")])
def test_doctor_finds_nothing_wrong(stack: Stack, arguments: tuple[str, ...]) -> None:
    operator = Stack(stack.folder, stack.environment | {"IMAGING_DATA_DIR": str(stack.folder)})
    done = operator.run(*arguments, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "wrong" not in done.stdout


def test_keys_are_rotated_in_three_steps(stack: Stack, tmp_path: Path) -> None:
    file = tmp_path / "client.pem"
    file.write_bytes((stack.folder / "keys" / "sandbox.pem").read_bytes())
    counts = []
    for step in ("--add", "--promote", "--retire"):
        stack.run("keys", "rotate", str(file), step)
        counts.append(file.read_text().count("BEGIN"))
        assert file.stat().st_mode & 0o777 == 0o600
    assert counts == [2, 2, 1]
    assert file.read_bytes().strip() != (stack.folder / "keys" / "sandbox.pem").read_bytes().strip()
