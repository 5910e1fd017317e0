"""Who calls: an Entra ID token with role ``Images.Analyse`` (AI_AUTH=entra), or the static token (AI_AUTH=bearer)."""

from __future__ import annotations

from imaging_core.bearer import Caller, entra_caller, static_caller, token_of
from imaging_core.settings import Settings

__all__ = ["ANALYSE_ROLE", "authenticate"]

ANALYSE_ROLE = "Images.Analyse"
_STATIC = Caller("static", frozenset({ANALYSE_ROLE}))


def authenticate(authorization: str, settings: Settings) -> None:
    """Check an ``Authorization`` header.

    Raises
    ------
    Permanent
        ``unauthenticated`` without a valid token, ``forbidden`` where an Entra token lacks the role.
    Retryable
        The issuer's keys can't be had.
    """
    token = token_of(authorization)
    if settings.ai_auth == "bearer":
        static_caller(token, settings.ai_token.get_secret_value(), _STATIC)
    else:
        entra_caller(token, settings.ai_audience, settings).require(ANALYSE_ROLE)
