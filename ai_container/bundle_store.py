"""Model bundles in Blob Storage: ``models/<name>/<version>/...``, held to a manifest, kept on disk under its hash.

``manifest.json`` names every file with its SHA-256, ``model.yaml`` and the card included; it is written last, so that a
bundle without one is not there yet. Who activates a version pins the manifest's own hash, so that files exchanged later
are refused. The copy on disk appears by one rename, and is checked again whenever it is loaded.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from ai_container.activation import CONTAINER
from ai_container.bundle import Bundle, load_bundle
from imaging_core.blobs import BlobMissing, BlobStore
from imaging_core.errors import Permanent
from imaging_core.settings import Settings

__all__ = ["MANIFEST", "BundleStore", "manifest_of"]

MANIFEST = "manifest.json"
MOST_BYTES = 512 * 1024 * 1024
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+-]{0,31}")
_FILE = re.compile(r"[0-9A-Za-z_][0-9A-Za-z_.-]{0,99}")
_RESERVED = frozenset({"drift"})


def manifest_of(folder: Path, name: str, version: str) -> bytes:
    """Return the manifest of a bundle's folder."""
    files = {
        path.name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        for path in sorted(folder.iterdir())
        if path.is_file() and path.name != MANIFEST
        for data in [path.read_bytes()]
    }
    content = {"format": 1, "name": name, "version": version, "files": files}
    return (json.dumps(content, indent=1, sort_keys=True) + "\n").encode()


def _parsed(reference: str, data: bytes) -> dict[str, tuple[str, int]]:
    name, _, version = reference.partition(":")
    try:
        content = json.loads(data)
        if (content["format"], content["name"], content["version"]) != (1, name, version):
            raise ValueError("it is another bundle's")
        files = {str(file): (str(entry["sha256"]), int(entry["bytes"])) for file, entry in content["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Permanent("model-unusable", f"{reference}: {MANIFEST}: {type(error).__name__}: {error}") from error
    if "model.yaml" not in files or not all(_FILE.fullmatch(file) for file in files):
        raise Permanent("model-unusable", f"{reference}: {MANIFEST} names no model.yaml, or what is no file's name")
    if sum(size for _, size in files.values()) > MOST_BYTES:
        raise Permanent("model-unusable", f"{reference}: more than {MOST_BYTES >> 20} MiB")
    return files


class BundleStore:
    """The bundles of container ``models``.

    Parameters
    ----------
    blobs : BlobStore
        Where they come from.
    cache : Path
        Folder of this user alone; made where it is missing.
    """

    def __init__(self, blobs: BlobStore, cache: Path) -> None:
        self._blobs = blobs
        self._cache = cache

    @classmethod
    def from_settings(cls, settings: Settings, blobs: BlobStore) -> BundleStore:
        """Keep the copies in MODEL_CACHE_DIR, else in the system's temporary folder."""
        folder = settings.model_cache_dir or Path(tempfile.gettempdir()) / f"imaging-models-{os.getuid()}"
        return cls(blobs, Path(folder))

    def list(self) -> list[str]:
        """Return the references of the bundles that are complete."""
        found = []
        for blob in self._blobs.list(CONTAINER):
            parts = blob.name.split("/")
            if len(parts) == 3 and parts[2] == MANIFEST and parts[0] not in _RESERVED:
                found.append(f"{parts[0]}:{parts[1]}")
        return sorted(found)

    def manifest(self, reference: str) -> bytes:
        """Return a bundle's manifest.

        Raises
        ------
        Permanent
            ``not-found``.
        """
        name, _, version = reference.partition(":")
        if not _NAME.fullmatch(name) or not _VERSION.fullmatch(version):
            raise Permanent("not-found", "no model has such a name")
        try:
            return self._blobs.get(CONTAINER, f"{name}/{version}/{MANIFEST}")
        except BlobMissing as error:
            raise Permanent("not-found", f"no model {reference} in container {CONTAINER}") from error

    def load(self, reference: str, manifest_sha256: str = "") -> Bundle:
        """Return a bundle, from the disk where it is there.

        Parameters
        ----------
        reference : str
            ``name:version``.
        manifest_sha256 : str
            What the activation pinned; empty: whatever manifest is there.

        Raises
        ------
        Permanent
            ``model-hash-mismatch``, ``model-unusable``, ``not-found``.
        Retryable
            The image store is away.
        """
        if manifest_sha256:
            kept = self._kept(reference, manifest_sha256)
            if kept is not None:
                return kept
        manifest = self.manifest(reference)
        digest = hashlib.sha256(manifest).hexdigest()
        if manifest_sha256 and digest != manifest_sha256:
            raise Permanent("model-hash-mismatch", f"{reference}: its manifest is not the one that was activated")
        kept = self._kept(reference, digest)
        return kept if kept is not None else self._fetch(reference, manifest, digest)

    def _kept(self, reference: str, digest: str) -> Bundle | None:
        """Return the copy on disk; one that is damaged is thrown away, and fetched anew."""
        folder = self._cache / digest
        if not folder.is_dir():
            return None
        try:
            manifest = (folder / MANIFEST).read_bytes()
            if hashlib.sha256(manifest).hexdigest() != digest:
                raise Permanent("model-hash-mismatch", f"{reference}: the manifest on disk")
            for file, (expected, _) in _parsed(reference, manifest).items():
                if hashlib.sha256((folder / file).read_bytes()).hexdigest() != expected:
                    raise Permanent("model-hash-mismatch", f"{reference}: {file} on disk")
        except (OSError, Permanent):
            shutil.rmtree(folder, ignore_errors=True)
            return None
        return _named(load_bundle(folder), reference)

    def _fetch(self, reference: str, manifest: bytes, digest: str) -> Bundle:
        files = _parsed(reference, manifest)
        self._cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._cache.stat().st_uid != os.getuid():
            raise Permanent("bad-setting", "MODEL_CACHE_DIR belongs to another user")
        with tempfile.TemporaryDirectory(dir=self._cache, prefix=".new-") as made:
            new = Path(made) / "bundle"
            new.mkdir()
            for file, (expected, size) in files.items():
                data = self._file(reference, file)
                if len(data) != size or hashlib.sha256(data).hexdigest() != expected:
                    raise Permanent("model-hash-mismatch", f"{reference}: {file} is not the file that {MANIFEST} names")
                (new / file).write_bytes(data)
            (new / MANIFEST).write_bytes(manifest)
            bundle = _named(load_bundle(new), reference)  # a bundle that can't be used is not kept
            try:
                new.rename(self._cache / digest)
            except OSError:  # another process was first: its copy has the same hash
                if not (self._cache / digest).is_dir():
                    raise
        return bundle

    def _file(self, reference: str, file: str) -> bytes:
        try:
            return self._blobs.get(CONTAINER, f"{reference.replace(':', '/')}/{file}")
        except BlobMissing as error:
            raise Permanent("model-hash-mismatch", f"{reference}: {file} is missing") from error

    def add(self, folder: Path) -> str:
        """Put a bundle's folder into the store and return its reference; a version that is there is never changed.

        Raises
        ------
        Permanent
            ``conflicting-content``: this version is there with other files; ``bad-setting``, ``model-hash-mismatch``.
        """
        bundle = load_bundle(folder)
        if not _NAME.fullmatch(bundle.name) or bundle.name in _RESERVED or not _VERSION.fullmatch(bundle.version):
            raise Permanent("model-unusable", "name: lower-case letters, digits, hyphens; version: like 1.0.0")
        manifest = manifest_of(folder, bundle.name, bundle.version)
        place = f"{bundle.name}/{bundle.version}"
        files: Mapping[str, tuple[str, int]] = _parsed(bundle.reference, manifest)
        try:
            there = self.manifest(bundle.reference)
        except Permanent as error:
            if error.code != "not-found":
                raise
        else:
            if there != manifest:
                raise Permanent("conflicting-content", f"{bundle.reference} is there with other files")
            return bundle.reference
        for file in files:
            self._blobs.put(CONTAINER, f"{place}/{file}", (folder / file).read_bytes())
        if not self._blobs.put_new(CONTAINER, f"{place}/{MANIFEST}", manifest, content_type="application/json"):
            raise Permanent("conflicting-content", f"{bundle.reference} was added by somebody else at the same time")
        return bundle.reference


def _named(bundle: Bundle, reference: str) -> Bundle:
    if bundle.reference != reference:
        raise Permanent("model-unusable", f"{reference}: model.yaml calls itself {bundle.reference}")
    return bundle
