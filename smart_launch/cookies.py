"""The app's cookies: one while a launch is on its way, another one, with a new value, while it runs.

Each launch has cookies of its own. So two launches in one browser, even at the same moment, never share or replace a
session, and nothing that was set before the callback counts after it.
"""

from __future__ import annotations

import base64
import hashlib
import re

from flask import Request, Response

__all__ = [
    "PROBE",
    "binding_cookie",
    "clear_cookie",
    "has_any",
    "is_launch_id",
    "pending_cookies",
    "session_cookie",
    "session_ids",
    "set_cookie",
]

#: Set before a framed launch goes on to the EHR, to see whether this browser keeps cookies there.
PROBE = "__Host-probe"
_SESSION = "__Host-launch-"
_BINDING = "__Host-state-"
_LAUNCH_ID = re.compile(r"[A-Za-z0-9_-]{22}")


def is_launch_id(text: str) -> bool:
    """Say whether a text has the form of a launch id; nothing else is ever looked up."""
    return _LAUNCH_ID.fullmatch(text) is not None


def session_cookie(launch_id: str) -> str:
    """Return the name of the cookie that holds a running launch's session id."""
    return f"{_SESSION}{launch_id}"


def binding_cookie(state: str) -> str:
    """Return the name of the cookie that ties a state to the browser; the state can't be told from it."""
    tag = hashlib.sha256(b"cookie:" + state.encode()).digest()[:9]
    return f"{_BINDING}{base64.urlsafe_b64encode(tag).decode()}"


def set_cookie(response: Response, name: str, value: str, max_age: int | None = None) -> None:
    """Set a cookie that works in an EHR's frame: `SameSite=None`, in a partition of that EHR's own (CHIPS)."""
    response.set_cookie(
        name, value, max_age=max_age, path="/", secure=True, httponly=True, samesite="None", partitioned=True
    )


def clear_cookie(response: Response, name: str) -> None:
    """Remove a cookie; with the same attributes, for browsers remove only from the partition that is named."""
    response.delete_cookie(name, path="/", secure=True, httponly=True, samesite="None", partitioned=True)


def session_ids(request: Request) -> dict[str, str]:
    """Return session ids by launch id, as the browser has sent them."""
    return {
        name[len(_SESSION) :]: value
        for name, value in request.cookies.items()
        if name.startswith(_SESSION) and is_launch_id(name[len(_SESSION) :])
    }


def has_any(request: Request) -> bool:
    """Say whether the browser has sent back any cookie of ours."""
    return any(name == PROBE or name.startswith((_SESSION, _BINDING)) for name in request.cookies)


def pending_cookies(request: Request) -> list[str]:
    """Return the names of the cookies of launches on their way."""
    return [name for name in request.cookies if name.startswith(_BINDING)]
