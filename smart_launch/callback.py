"""Reading of requests that come through the browser: the launch and the callback. Nothing of them is ever reflected."""

from __future__ import annotations

from dataclasses import dataclass, field

from werkzeug.datastructures import MultiDict

from smart_launch.discovery import SmartConfiguration
from smart_launch.errors import LaunchError

__all__ = ["CallbackParameters", "LaunchParameters"]

_MAX_ISS = 2048
_MAX_OPAQUE = 16 * 1024  # Epic sends JWTs of several kB as launch and as code
_ERRORS = {
    "access_denied": "access-denied",
    "login_required": "access-denied",
    "interaction_required": "access-denied",
    "invalid_scope": "scope-refused",
    "unauthorized_client": "client-refused",
    "temporarily_unavailable": "ehr-busy",
    "server_error": "ehr-error",
}


def _single(query: MultiDict[str, str], name: str, limit: int, code: str) -> str | None:
    """Return a parameter that may be there once; None where it is not.

    Raises
    ------
    LaunchError
        It is there twice, too long, or has control characters.
    """
    values = query.getlist(name)
    if not values:
        return None
    if len(values) > 1:
        raise LaunchError(code, f"{name} occurs {len(values)} times")
    if len(values[0]) > limit:
        raise LaunchError(code, f"{name} is too long")
    if not values[0].isprintable():
        raise LaunchError(code, f"{name} has control characters")
    return values[0]


@dataclass(frozen=True)
class LaunchParameters:
    """What an EHR sends to the launch URL; `launch` is opaque."""

    iss: str
    launch: str = field(repr=False)

    @classmethod
    def read(cls, query: MultiDict[str, str]) -> LaunchParameters:
        """Read the query of a launch request; further parameters are ignored.

        Raises
        ------
        LaunchError
            `launch-incomplete`.
        """
        iss = _single(query, "iss", _MAX_ISS, "launch-incomplete")
        launch = _single(query, "launch", _MAX_OPAQUE, "launch-incomplete")
        if not iss or not launch:
            raise LaunchError("launch-incomplete", "iss or launch is missing")
        return cls(iss, launch)


@dataclass(frozen=True)
class CallbackParameters:
    """What comes back to the redirect URI."""

    state: str = field(repr=False)
    code: str | None = field(repr=False)
    error: str | None
    iss: str | None

    @classmethod
    def read(cls, query: MultiDict[str, str]) -> CallbackParameters:
        """Read the query of a callback.

        Raises
        ------
        LaunchError
            `launch-unknown`: no state to go by, or parameters that contradict each other.
        """
        state = _single(query, "state", 512, "launch-unknown")
        if not state:
            raise LaunchError("launch-unknown", "state is missing")
        return cls(
            state=state,
            code=_single(query, "code", _MAX_OPAQUE, "launch-unknown"),
            error=_single(query, "error", 256, "launch-unknown"),
            iss=_single(query, "iss", _MAX_ISS, "launch-unknown"),
        )

    def check_issuer(self, configuration: SmartConfiguration) -> None:
        """Make sure that the answer is from the authorization server that was asked (RFC 9207 2.4).

        The callback's `iss` is the authorization server's issuer. It is compared, and never used as an address.

        Raises
        ------
        LaunchError
            `wrong-issuer`.
        """
        if self.iss is None:
            if configuration.iss_parameter:
                raise LaunchError("wrong-issuer", "iss is missing, though the EHR says that it sends it")
        elif self.iss != configuration.issuer:
            raise LaunchError("wrong-issuer", "iss is another server's")

    def authorization_code(self) -> str:
        """Return the code.

        Raises
        ------
        LaunchError
            The EHR reported an error, or sent no code, or both.
        """
        if self.error is not None:
            known = _ERRORS.get(self.error, "ehr-error")
            raise LaunchError(
                known, f"authorization endpoint: {self.error if self.error in _ERRORS else 'other error'}"
            )
        if not self.code:
            raise LaunchError("launch-unknown", "neither code nor error")
        return self.code
