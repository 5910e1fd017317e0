"""Entry point of gunicorn: ``gunicorn -c python:clinician_app.gunicorn_conf clinician_app.wsgi:app``."""

from __future__ import annotations

from clinician_app.app import create_app
from clinician_app.services import Services
from clinician_app.settling import keep_settling
from imaging_core import telemetry
from imaging_core.settings import load_settings

settings = load_settings()
telemetry.configure("app", settings)
services = Services.from_settings(settings)
app = create_app(settings, services)
if services.desk is not None:
    keep_settling(services.desk)
