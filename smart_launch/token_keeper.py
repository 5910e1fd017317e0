"""Access tokens of running launches: handed out, and refreshed by one process at a time (SMART 2.2 "Refresh")."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import structlog

from smart_launch.discovery import SmartConfiguration
from smart_launch.errors import LaunchError
from smart_launch.guarded_http import GuardedSession
from smart_launch.launch_context import LaunchContext
from smart_launch.launch_session import LaunchSession
from smart_launch.registration import Registration
from smart_launch.session_store import SessionStore, StoredTokens
from smart_launch.token_endpoint import TokenResponse, refresh, revoke

__all__ = ["TokenKeeper"]

_log = structlog.get_logger("smart_launch")
_EARLY = timedelta(seconds=20)

Endpoints = Callable[[Registration], tuple[SmartConfiguration, GuardedSession]]


class TokenKeeper:
    """Tokens of the launches in a store.

    Parameters
    ----------
    sessions : SessionStore
        Where they are.
    endpoints : callable
        Returns an EHR's configuration, and the session to its authorization service.
    """

    def __init__(self, sessions: SessionStore, endpoints: Endpoints) -> None:
        self._sessions = sessions
        self._endpoints = endpoints

    def current(self, launch: LaunchSession) -> str:
        """Return an access token that has not expired.

        Raises
        ------
        LaunchError
            `launch-ended`: there is none any more.
        """
        tokens = self._sessions.tokens(launch.launch_id)
        if tokens is None:
            raise LaunchError("launch-ended", "no tokens")
        if tokens.expires_at - _EARLY > datetime.now(UTC):
            return tokens.access_token
        if tokens.refresh_token is None:
            if tokens.expires_at > datetime.now(UTC):
                return tokens.access_token
            self._sessions.end([launch.launch_id], "token expired")
            raise LaunchError("launch-ended", "access token has expired and there is no refresh token")
        return self.renew(launch, tokens.access_token)

    def renew(self, launch: LaunchSession, stale: str) -> str:
        """Return another access token than `stale`: the one that another process has fetched meanwhile, or a new one.

        Raises
        ------
        LaunchError
            `launch-ended`, `patient-changed`: the launch is over; `ehr-unreachable`, `ehr-busy`: try again.
        """
        failure: LaunchError
        with self._sessions.locked_tokens(launch.launch_id) as row:
            if row is None:
                raise LaunchError("launch-ended", "no tokens")
            if row.tokens.access_token != stale:
                return row.tokens.access_token
            try:
                answer = self._refresh(launch, row.tokens)
            except LaunchError as error:
                failure = error
            else:
                row.replace(
                    answer.access_token,
                    answer.refresh_token or row.tokens.refresh_token,
                    answer.expires_in,
                    answer.scopes.text,
                )
                return answer.access_token
        if failure.code in ("ehr-unreachable", "ehr-busy", "ehr-error"):
            raise failure
        _log.info("smart.refresh.ended", ehr=launch.ehr.name, fault=failure.code, detail=failure.detail)
        self._sessions.end([launch.launch_id], failure.code)
        code = "patient-changed" if failure.code == "patient-changed" else "launch-ended"
        raise LaunchError(code, failure.detail) from failure

    def _refresh(self, launch: LaunchSession, tokens: StoredTokens) -> TokenResponse:
        if tokens.refresh_token is None:
            raise LaunchError("launch-ended", "token was refused and there is no refresh token")
        configuration, http = self._endpoints(launch.ehr)
        answer = refresh(
            launch.ehr, configuration, http, refresh_token=tokens.refresh_token, granted=launch.scopes.text
        )
        context = LaunchContext.from_token_response(answer.document, launch.fhir_base)
        if context.patient is not None and context.patient != launch.patient:
            raise LaunchError("patient-changed", "refresh names another patient")
        return answer

    def revoke(self, ehr: Registration, launch_id: str) -> None:
        """Take back a launch's tokens where the EHR offers that; before they are deleted. Never stops what follows."""
        try:
            tokens = self._sessions.tokens(launch_id)
            if tokens is None:
                return
            configuration, http = self._endpoints(ehr)
            if tokens.refresh_token:
                revoke(ehr, configuration, http, token=tokens.refresh_token, hint="refresh_token")
            revoke(ehr, configuration, http, token=tokens.access_token, hint="access_token")
        except LaunchError as error:
            _log.warning("smart.revocation.failed", ehr=ehr.name, fault=error.code)
