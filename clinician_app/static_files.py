"""The app's own styles and scripts, under an address that changes with their content: browsers may keep them for good.

The version is part of the path, not of the query: a module's relative imports then carry it too.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from flask import Flask, Response, send_from_directory, url_for

__all__ = ["init_static_files"]

_FOLDER = Path(__file__).parent / "static"
_TYPES = {".mjs": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml"}


def init_static_files(app: Flask) -> None:
    """Register the route and the template function ``asset``."""
    version = _version()

    def static_file(version: str, filename: str) -> Response:
        response = send_from_directory(_FOLDER, filename, mimetype=_TYPES.get(Path(filename).suffix))
        response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
        return response

    def asset(filename: str) -> str:
        return url_for("static", version=version, filename=filename)

    app.add_url_rule("/static/<version>/<path:filename>", "static", static_file)
    app.jinja_env.globals["asset"] = asset


def _version() -> str:
    digest = hashlib.sha256()
    for file in sorted(_FOLDER.rglob("*")):
        if file.is_file():
            digest.update(file.relative_to(_FOLDER).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:12]
