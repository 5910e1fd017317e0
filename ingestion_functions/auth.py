"""Who calls: an Entra ID token with an app role, or one of the local stack's two developer tokens.

``Images.Upload`` sends images and asks what became of them; ``Images.Admin`` sees the hold list and the quarantine, and
decides. Neither includes the other.
"""

from __future__ import annotations

import hmac

from imaging_core.bearer import Caller, entra_caller, static_caller, token_of
from imaging_core.settings import Settings

__all__ = ["ADMIN_ROLE", "UPLOAD_ROLE", "Caller", "authenticate"]

UPLOAD_ROLE = "Images.Upload"
ADMIN_ROLE = "Images.Admin"
_DEVELOPER = Caller("developer", frozenset({UPLOAD_ROLE}))
_ADMIN = Caller("developer-admin", frozenset({ADMIN_ROLE}))


def authenticate(authorization: str, settings: Settings, role: str = UPLOAD_ROLE) -> Caller:
    """Check an ``Authorization`` header.

    Raises
    ------
    Permanent
        ``unauthenticated`` where there is no valid token, ``forbidden`` where it lacks the role.
    Retryable
        The issuer's keys can't be had.
    """
    token = token_of(authorization)
    if settings.ingest_auth != "developer":
        return entra_caller(token, settings.ingest_audience, settings).require(role)
    admin = settings.ingest_admin_token.get_secret_value()
    if admin and hmac.compare_digest(token.encode(), admin.encode()):
        return _ADMIN.require(role)
    return static_caller(token, settings.ingest_token.get_secret_value(), _DEVELOPER).require(role)
