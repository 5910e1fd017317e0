"""Routes of the SMART client."""

from __future__ import annotations

from flask import Blueprint, Response, current_app, jsonify, request

from smart_launch import cookies, security_headers
from smart_launch.callback import CallbackParameters, LaunchParameters
from smart_launch.errors import LaunchError
from smart_launch.launch_flow import begin, finish, limit_rate, no_cookie_page, offer_window, probe
from smart_launch.pages import choose_ehr, fault_page
from smart_launch.registration import find_by_iss
from smart_launch.signing_keys import public_jwks
from smart_launch.smart import SmartLaunch

__all__ = ["blueprint"]

blueprint = Blueprint("smart_launch", __name__, template_folder="templates")
_JWKS_LIFE_S = 3600


def _smart() -> SmartLaunch:
    smart: SmartLaunch = current_app.extensions["smart_launch"]
    return smart


@blueprint.get("/launch")
def launch() -> Response:
    """Begin an EHR launch."""
    smart = _smart()
    parameters = LaunchParameters.read(request.args)
    registration = find_by_iss(smart.registrations, parameters.iss)
    if registration is None:
        raise LaunchError("unknown-ehr", "iss is not registered")
    security_headers.allow_frames_of(registration)
    if request.headers.get("Sec-Fetch-Dest") == "iframe" and not cookies.has_any(request):
        if "checked" not in request.args:
            return probe(parameters)
        limit_rate(smart)
        return offer_window(smart, registration, parameters.launch)
    limit_rate(smart)
    return begin(smart, registration, parameters.launch)


@blueprint.get("/login")
def login() -> Response:
    """Let the user choose an EHR, and begin a standalone launch there."""
    smart = _smart()
    name = request.args.get("ehr")
    if name is None:
        return choose_ehr(smart.registrations)
    registration = smart.registration(name)
    if registration is None:
        raise LaunchError("unknown-ehr", "no EHR of this name")
    limit_rate(smart)
    return begin(smart, registration, None)


@blueprint.get("/callback/<ehr>")
def callback(ehr: str) -> Response:
    """Take an EHR's answer."""
    smart = _smart()
    registration = smart.registration(ehr)
    if registration is None:
        raise LaunchError("launch-unknown", "no EHR of this name")
    security_headers.allow_frames_of(registration)
    parameters = CallbackParameters.read(request.args)
    try:
        response = finish(smart, registration, parameters)
    except LaunchError as error:
        response = no_cookie_page(registration, parameters.state) if error.code == "no-cookie" else fault_page(error)
        if error.code not in ("launch-unknown", "no-cookie"):  # else the state is not used up, and may yet be answered
            cookies.clear_cookie(response, cookies.binding_cookie(parameters.state))
    return response


@blueprint.post("/launch/restart")
def restart() -> Response:
    """Begin a launch again in a window of its own, for a browser that keeps no cookies in the EHR's frame."""
    smart = _smart()
    limit_rate(smart)
    earlier = smart.sessions.requests.restart(request.form.get("ticket", ""))
    registration = smart.registration(earlier.ehr)
    if registration is None:
        raise LaunchError("launch-expired", "EHR is not registered any more")
    return begin(smart, registration, earlier.launch or None)


@blueprint.post("/l/<launch_id>/logout")
def logout(launch_id: str) -> Response:
    """End a launch: at the EHR where that is offered, and here in any case."""
    smart = _smart()
    session = smart.require(launch_id)
    smart.tokens.revoke(session.ehr, launch_id)
    smart.sessions.end([launch_id], "logout")
    response = fault_page(LaunchError("signed-out"), further=smart.end_session_url(session.ehr))
    cookies.clear_cookie(response, cookies.session_cookie(launch_id))
    response.headers["Clear-Site-Data"] = '"cache"'
    return response


@blueprint.get("/.well-known/jwks.json")
def jwks() -> Response:
    """Publish the app's public keys."""
    smart = _smart()
    response = jsonify(public_jwks(key for item in smart.registrations for key in item.published_keys))
    response.headers["Cache-Control"] = f"public, max-age={_JWKS_LIFE_S}"
    smart.allow_cache()
    return response


@blueprint.app_errorhandler(405)
def wrong_method(_: object) -> Response:
    """Say in a page that an address does not take this method."""
    return fault_page(LaunchError("wrong-method", request.method))
