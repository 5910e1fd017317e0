"""Header fields of every response: who may embed it, what it may load, and that nothing of it is kept."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from urllib.parse import urlsplit

from flask import Response, g

from smart_launch.registration import Registration

__all__ = ["allow_form_target", "allow_frames_of", "csp_nonce", "frame_ancestors", "harden"]

_POLICY = (
    ("default-src", "'none'"),
    ("script-src", "'self' 'nonce-{nonce}'"),
    ("style-src", "'self' 'nonce-{nonce}'"),
    ("img-src", "'self' data: blob:"),
    ("font-src", "'self'"),
    ("connect-src", "'self'"),
    ("frame-src", "'self'"),
    ("worker-src", "'self'"),
    ("manifest-src", "'self'"),
    ("object-src", "'none'"),
    ("base-uri", "'none'"),
)


def csp_nonce() -> str:
    """Return this response's nonce for `<script nonce>` and `<style nonce>`."""
    nonce: str | None = g.get("smart_csp_nonce")
    if nonce is None:
        nonce = g.smart_csp_nonce = secrets.token_urlsafe(18)
    return nonce


def allow_frames_of(registration: Registration) -> None:
    """Let the pages of an EHR embed this response."""
    g.smart_frame_ancestors = tuple(registration.frame_ancestors)


def allow_form_target(url: str) -> None:
    """Let a form of this response lead to an EHR.

    Browsers hold the redirects that follow a form to the policy as well, and a sign-in may go over other hosts.
    """
    parts = urlsplit(url)
    g.smart_form_action = f"'self' {parts.scheme}://{parts.netloc} https:"


def frame_ancestors() -> str:
    """Return the sources of `frame-ancestors` as they stand; nobody, where no EHR is known."""
    return " ".join(g.get("smart_frame_ancestors") or ("'none'",))


def harden(response: Response, *, cacheable: bool, secure_transport: bool) -> Response:
    """Set the header fields of a response.

    Parameters
    ----------
    response : flask.Response
        The response.
    cacheable : bool
        Whether it is the same for everybody, so that its own `Cache-Control` stands.
    secure_transport : bool
        Whether to insist on TLS for the host from now on.
    """
    directives: Iterable[tuple[str, str]] = (
        *_POLICY,
        ("form-action", g.get("smart_form_action", "'self'")),
        ("frame-ancestors", frame_ancestors()),
    )
    nonce = csp_nonce()
    response.headers["Content-Security-Policy"] = "; ".join(
        f"{name} {value.replace('{nonce}', nonce)}" for name, value in directives
    )
    response.headers.pop("X-Frame-Options", None)
    if not cacheable:
        response.headers["Cache-Control"] = "no-store"
        response.headers["Pragma"] = "no-cache"
    response.headers["Referrer-Policy"] = "no-referrer"
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers.setdefault("Cross-Origin-Resource-Policy", "same-origin")
    response.headers.setdefault(
        "Permissions-Policy", "camera=(), microphone=(), geolocation=(), payment=(), usb=(), browsing-topics=()"
    )
    if secure_transport:
        response.headers.setdefault("Strict-Transport-Security", "max-age=31536000")
    return response
