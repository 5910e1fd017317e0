"""Entry point of gunicorn: ``gunicorn -c python:ai_container.gunicorn_config ai_container.wsgi:app``."""

from __future__ import annotations

from ai_container.app import create_app
from imaging_core import telemetry
from imaging_core.settings import load_settings

__all__ = ["app"]

_settings = load_settings()
telemetry.configure("ai", _settings)
app = create_app(_settings)
