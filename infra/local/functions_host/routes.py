"""Routes of HTTP triggers: templates such as ``dicomweb/studies/{study}`` below the route prefix."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import unquote

from infra.local.functions_host.worker import Function

__all__ = ["Route", "match_route", "routes"]

_PARAMETER = re.compile(r"\{(\*?)(\w+)(?::(\w+))?(\?)?\}")
_CONSTRAINTS = {"int": r"-?\d+", "guid": r"[0-9A-Fa-f-]{36}", "alpha": r"[A-Za-z]+", None: r"[^/]+"}


@dataclass(frozen=True)
class Route:
    """One HTTP function's template, compiled; a smaller `rank` is asked first (literal segments before parameters)."""

    function: Function
    methods: frozenset[str]
    pattern: re.Pattern[str]
    rank: tuple[int, ...]


def routes(functions: Sequence[Function], prefix: str) -> list[Route]:
    """Compile the routes of the HTTP functions, in the order in which they are tried."""
    found = [_route(function, prefix) for function in functions if function.trigger.type == "httpTrigger"]
    return sorted(found, key=lambda route: route.rank)


def match_route(table: Sequence[Route], method: str, raw_path: bytes) -> tuple[Function, dict[str, str]] | None:
    """Find the function for a request.

    Parameters
    ----------
    raw_path : bytes
        The path as sent, still percent-encoded: an encoded slash does not separate segments.

    Returns
    -------
    tuple[Function, dict[str, str]] or None
        With the route parameters, decoded. None: the host answers 404, for a wrong method too, as Azure does.
    """
    path = raw_path.decode("latin-1").strip("/")
    for route in table:
        match = route.pattern.fullmatch(path)
        if match is not None and (not route.methods or method in route.methods):
            found = match.groupdict()
            return route.function, {name: unquote(value) for name, value in found.items() if value is not None}
    return None


def _route(function: Function, prefix: str) -> Route:
    template = function.trigger.options.get("route") or function.name
    segments = [segment for segment in f"{prefix}/{template}".split("/") if segment]
    pattern = ""
    rank = []
    for segment in segments:
        match = _PARAMETER.fullmatch(segment)
        if match is None:
            pattern += "/" + re.escape(segment)
            rank.append(0)
            continue
        catch_all, name, constraint, optional = match.groups()
        part = f"/(?P<{name}>{'.*' if catch_all else _CONSTRAINTS[constraint]})"
        pattern += f"(?:{part})?" if optional or catch_all else part
        rank.append(2 if catch_all or optional else 1)
    methods = frozenset(str(method).upper() for method in function.trigger.options.get("methods") or ())
    return Route(function, methods, re.compile(pattern.removeprefix("/")), tuple(rank))
