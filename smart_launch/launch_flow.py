"""The two halves of a launch: sending the browser to the EHR, and making a session of what comes back."""

from __future__ import annotations

from urllib.parse import urlencode

import structlog
from flask import Response, make_response, redirect, request

from smart_launch import cookies, security_headers
from smart_launch.authorization_request import LONGEST_GET, OutgoingRequest, new_request, restart_ticket
from smart_launch.callback import CallbackParameters, LaunchParameters
from smart_launch.discovery import SmartConfiguration
from smart_launch.errors import LaunchError
from smart_launch.guarded_http import GuardedSession
from smart_launch.id_token import Identity, validate
from smart_launch.launch_context import LaunchContext
from smart_launch.pages import authorize_form, fault_page
from smart_launch.pending_requests import AuthorizationRequest, digest
from smart_launch.registration import Registration
from smart_launch.scopes import ScopeSet
from smart_launch.smart import SmartLaunch
from smart_launch.token_endpoint import TokenResponse, exchange_code

__all__ = ["begin", "finish", "limit_rate", "no_cookie_page", "offer_window", "probe"]

_log = structlog.get_logger("smart_launch")
_PENDING_LIFE_S = 600
_MAX_PENDING = 12
_MAX_RUNNING = 24


def limit_rate(smart: SmartLaunch) -> None:
    """Count this launch against its address.

    Raises
    ------
    LaunchError
        `too-many-launches`.
    """
    if not smart.rate_limit_per_address:
        return
    address = request.remote_addr or ""
    if ":" in address:  # one IPv6 site has a /64 or more
        address = ":".join(address.split(":")[:4])
    count, seconds_left = smart.sessions.count_launch(address)
    if count > smart.rate_limit_per_address:
        raise LaunchError("too-many-launches", "", retry_after=seconds_left)


def begin(smart: SmartLaunch, registration: Registration, launch: str | None) -> Response:
    """Send the browser to an EHR's authorization endpoint.

    Parameters
    ----------
    smart : SmartLaunch
        The client.
    registration : Registration
        The EHR.
    launch : str or None
        The EHR's launch value; None in a standalone launch.

    Raises
    ------
    LaunchError
        The EHR can't be reached or does not offer what is needed.
    """
    configuration, _ = smart.endpoints(registration)
    capability = "launch-standalone" if launch is None else "launch-ehr"
    if configuration.capabilities and not configuration.legacy and not configuration.offers(capability):
        raise LaunchError("ehr-unsupported", f"capabilities lack {capability}")
    outgoing = new_request(registration, configuration, smart.redirect_uri(registration), launch)
    _store(smart, registration, outgoing, launch)
    if configuration.offers("authorize-post") and len(outgoing.url) > LONGEST_GET:
        security_headers.allow_form_target(outgoing.endpoint)
        response = authorize_form(outgoing.endpoint, outgoing.parameters)
    else:
        response = make_response(redirect(outgoing.url))
    for name in cookies.pending_cookies(request)[: -_MAX_PENDING + 1 or None]:
        cookies.clear_cookie(response, name)
    cookies.set_cookie(response, cookies.binding_cookie(outgoing.state), outgoing.binding, _PENDING_LIFE_S)
    return response


def _store(smart: SmartLaunch, registration: Registration, outgoing: OutgoingRequest, launch: str | None) -> None:
    smart.sessions.requests.begin(
        outgoing.state,
        outgoing.binding,
        restart_ticket(outgoing.state),
        outgoing.nonce,
        AuthorizationRequest(
            ehr=registration.name,
            verifier=outgoing.verifier,
            nonce_hash=digest(outgoing.nonce),
            asked=outgoing.parameters["scope"],
            launch=launch or "",
        ),
    )


def probe(parameters: LaunchParameters) -> Response:
    """Send a framed launch once round to itself with a cookie, before the EHR's launch value is spent.

    Launch values serve once: in a browser that keeps no cookies in a frame, a launch that fails only at the callback
    could not begin again in a window of its own.
    """
    query = urlencode({"iss": parameters.iss, "launch": parameters.launch, "checked": "1"})
    response = make_response(redirect(f"/launch?{query}", 303))
    cookies.set_cookie(response, cookies.PROBE, "1")
    return response


def offer_window(smart: SmartLaunch, registration: Registration, launch: str) -> Response:
    """Return the page for a frame in which the browser keeps no cookies; the launch goes on in a window of its own."""
    configuration, _ = smart.endpoints(registration)
    outgoing = new_request(registration, configuration, smart.redirect_uri(registration), launch)
    _store(smart, registration, outgoing, launch)
    return no_cookie_page(registration, outgoing.state)


def no_cookie_page(registration: Registration, state: str) -> Response:
    """Return the page that offers to begin a launch again, which is stored under a state, in a window of its own."""
    security_headers.allow_form_target(registration.iss)
    return fault_page(LaunchError("no-cookie"), restart_ticket=restart_ticket(state))


def finish(smart: SmartLaunch, registration: Registration, callback: CallbackParameters) -> Response:
    """Make a session of an EHR's answer, and send the browser to its clean address.

    Raises
    ------
    LaunchError
        Anything at all that is not as it should be; then there is no session.
    """
    binding_name = cookies.binding_cookie(callback.state)
    asked = smart.sessions.requests.take(callback.state, request.cookies.get(binding_name), registration.name)
    configuration, http = smart.endpoints(registration)
    callback.check_issuer(configuration)
    code = callback.authorization_code()
    try:
        answer = exchange_code(
            registration,
            configuration,
            http,
            code=code,
            redirect_uri=smart.redirect_uri(registration),
            verifier=asked.verifier,
            asked=asked.asked,
        )
        identity = _identity(smart, registration, configuration, http, answer, asked)
    except LaunchError as error:
        if error.code in ("ehr-unreachable", "ehr-misconfigured", "ehr-error"):
            smart.discovery.forget(registration)  # its endpoints or keys may have moved
        raise
    context = LaunchContext.from_token_response(answer.document, registration.fhir_url)
    if context.patient is None and (
        answer.scopes.has_level("patient") or ScopeSet.parse(asked.asked).has_level("patient")
    ):
        raise LaunchError("no-patient", "rights at patient level without a patient")
    launch_id, session_id = smart.sessions.open(
        ehr=registration.name,
        iss=registration.iss,
        issuer=identity.issuer if identity else None,
        subject=identity.subject if identity else None,
        fhir_user=identity.fhir_user if identity else None,
        patient=context.patient,
        encounter=context.encounter,
        scopes=answer.scopes.text,
        context=context.as_json(),
        access_token=answer.access_token,
        refresh_token=answer.refresh_token,
        expires_in=answer.expires_in,
    )
    _log.info("smart.launch.opened", ehr=registration.name, identity=identity is not None)
    response = make_response(redirect(f"/l/{launch_id}/", 303))
    cookies.clear_cookie(response, binding_name)
    _limit_running(smart, response)
    cookies.set_cookie(response, cookies.session_cookie(launch_id), session_id)
    return response


def _identity(
    smart: SmartLaunch,
    registration: Registration,
    configuration: SmartConfiguration,
    http: GuardedSession,
    answer: TokenResponse,
    asked: AuthorizationRequest,
) -> Identity | None:
    """Return the verified user; None where the EHR gives no identity, and the registration does not insist on one."""
    if "openid" not in asked.asked.split() and not registration.require_identity:
        return None  # an id_token that nobody has asked for has no nonce to be checked by
    if answer.id_token is None:
        offered = not configuration.capabilities or configuration.offers("sso-openid-connect")
        if registration.require_identity or ("openid" in answer.scopes and offered):
            raise LaunchError("identity-unproven", "openid was granted without an id_token")
        return None
    if not configuration.jwks_uri:
        raise LaunchError("ehr-misconfigured", "id_token without a jwks_uri")
    identity = validate(
        answer.id_token,
        issuer=configuration.issuer,
        client_id=registration.client_id,
        nonce_matches=asked.nonce_matches,
        access_token=answer.access_token,
        algorithms=configuration.id_token_algs,
        keys_for=lambda kid, algorithm: smart.issuer_keys.candidates(
            registration, configuration.jwks_uri, http, kid, algorithm
        ),
    )
    if identity.fhir_user is not None and identity.fhir_user.partition("/")[0] not in smart.accepted_users:
        raise LaunchError("not-a-clinician", "fhirUser is of another type")
    return identity


def _limit_running(smart: SmartLaunch, response: Response) -> None:
    """Remove cookies of launches that are over, and end the oldest ones of a browser that has very many."""
    running = smart.current_launches()
    surplus = [launch.launch_id for launch in running[_MAX_RUNNING - 1 :]]
    if surplus:
        smart.sessions.end(surplus, "too many in one browser")
    kept = {launch.launch_id for launch in running} - set(surplus)
    for launch_id in cookies.session_ids(request):
        if launch_id not in kept:
            cookies.clear_cookie(response, cookies.session_cookie(launch_id))
