"""Defence against forged requests: the app's cookies are `SameSite=None`, so a browser sends them from anywhere."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterable

from flask import Request

from smart_launch.errors import LaunchError

__all__ = ["SAFE_METHODS", "check_origin", "check_token", "csrf_token"]

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


def csrf_token(session_id: str) -> str:
    """Return the token of a session: bound to it, and of no use for getting at it."""
    mac = hmac.new(session_id.encode(), b"csrf", hashlib.sha256).digest()
    return base64.urlsafe_b64encode(mac).rstrip(b"=").decode()


def check_origin(request: Request, own_origin: str) -> None:
    """Refuse a request that a browser says comes from elsewhere.

    `Origin: null` stands for "not told": a form on a page with `Referrer-Policy: no-referrer` sends it.

    Raises
    ------
    LaunchError
        `request-forged`.
    """
    if request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
        raise LaunchError("request-forged", "Sec-Fetch-Site")
    if request.headers.get("Origin", "null") not in ("null", own_origin):
        raise LaunchError("request-forged", "Origin")


def check_token(request: Request, session_ids: Iterable[str]) -> None:
    """Refuse a request that does not carry the token of one of the sessions.

    Raises
    ------
    LaunchError
        `request-forged`.
    """
    sent = request.headers.get("X-CSRF-Token") or request.form.get("csrf_token") or ""
    matches = [hmac.compare_digest(sent.encode(), csrf_token(session_id).encode()) for session_id in session_ids]
    if not any(matches):
        raise LaunchError("request-forged", "CSRF token is missing or another session's")
