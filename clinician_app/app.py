"""The clinician app as a Flask application: `create_app`."""

from __future__ import annotations

from flask import Flask

from clinician_app.language import init_language
from clinician_app.refusals import init_refusals
from clinician_app.request_log import init_request_log
from clinician_app.services import Services
from clinician_app.static_files import init_static_files
from clinician_app.views.dicomweb import dicomweb
from clinician_app.views.health import health
from clinician_app.views.images import images
from clinician_app.views.pages import pages
from clinician_app.views.results import results_api
from clinician_app.views.signoff import signoff
from imaging_core.settings import Settings

__all__ = ["create_app"]


def create_app(settings: Settings, services: Services | None = None) -> Flask:
    """Build the app.

    Parameters
    ----------
    settings : Settings
        Read once at start.
    services : Services, optional
        The parts that it works with; opened from the settings where left out.

    Raises
    ------
    Permanent
        ``bad-setting``, naming what is missing or wrong.
    """
    app = Flask(__name__, static_folder=None)
    app.debug = False  # whatever FLASK_DEBUG says: a debugger's page shows settings and patients
    # every request is a GET or a small form
    app.config.update(MAX_CONTENT_LENGTH=64 * 1024, MAX_FORM_PARTS=1_000, TRAP_HTTP_EXCEPTIONS=False)
    app.jinja_env.trim_blocks = True
    app.jinja_env.lstrip_blocks = True
    services = services or Services.from_settings(settings)
    services.attach(app)
    init_request_log(app)
    init_language(app, site_language=settings.site_language, site_zone=settings.site_time_zone)
    init_static_files(app)
    services.smart.init_app(app)
    app.jinja_env.globals["csp_nonce"] = services.smart.csp_nonce
    init_refusals(app)
    app.register_blueprint(dicomweb, url_prefix="/dicomweb")
    app.register_blueprint(dicomweb, url_prefix="/l/<launch_id>/dicomweb", name="launch_dicomweb")
    for blueprint in (pages, images, signoff, results_api, health):
        app.register_blueprint(blueprint)
    return app
