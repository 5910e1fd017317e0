"""Proof Key for Code Exchange (RFC 7636), S256 only as SMART requires."""

from __future__ import annotations

import secrets

from authlib.oauth2.rfc7636 import create_s256_code_challenge  # type: ignore[import-untyped]  # Authlib ships no types

__all__ = ["challenge", "new_verifier"]


def new_verifier() -> str:
    """Return a fresh code verifier: 64 characters, 384 bits (RFC 7636 4.1 asks for 43 to 128 characters)."""
    return secrets.token_urlsafe(48)


def challenge(verifier: str) -> str:
    """Return the S256 code challenge of a verifier (RFC 7636 4.2)."""
    return str(create_s256_code_challenge(verifier))
