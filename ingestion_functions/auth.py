"""Who uploads: an Entra ID token with app role ``Images.Upload``, or the local stack's developer token."""

from __future__ import annotations

from imaging_core.bearer import Caller, entra_caller, static_caller, token_of
from imaging_core.settings import Settings

__all__ = ["UPLOAD_ROLE", "Caller", "authenticate"]

UPLOAD_ROLE = "Images.Upload"
_DEVELOPER = Caller("developer", frozenset({UPLOAD_ROLE}))


def authenticate(authorization: str, settings: Settings) -> Caller:
    """Check an ``Authorization`` header.

    Raises
    ------
    Permanent
        ``unauthenticated`` where there is no valid token, ``forbidden`` where it lacks the role.
    Retryable
        The issuer's keys can't be had.
    """
    token = token_of(authorization)
    if settings.ingest_auth == "developer":
        return static_caller(token, settings.ingest_token.get_secret_value(), _DEVELOPER)
    return entra_caller(token, settings.ingest_audience, settings).require(UPLOAD_ROLE)
