"""SMART scopes, version 2 and version 1, as asked for and as granted.

A server may grant less than was asked, more, in other words, in another order, or in the words of version 1 or of a
vendor: what counts is what a grant allows, never whether two strings are equal.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from smart_launch.errors import SmartConfigurationError

__all__ = ["ResourceScope", "ScopeSet", "check_requested", "to_v1"]

_V2 = re.compile(r"(patient|user|system)/([A-Z][A-Za-z]*|\*)\.(?=[cruds])(c?r?u?d?s?)(?:\?(\S+))?")
_V1 = re.compile(r"(patient|user|system)/([A-Z][A-Za-z]*|\*)\.(read|write|\*)")
_DOTTED = re.compile(
    r"(?:[a-z]+://\S+/)?(patient|user|system)\.([A-Z][A-Za-z]*|all|\*)\.(read|write|all|\*|c?r?u?d?s?)"
)
_VENDOR = re.compile(r"([A-Z][A-Za-z]*)\.(read|search|create|update|delete)", re.IGNORECASE)
_LAUNCH = re.compile(r"launch(/[a-z]+(\?role=[^\s&?]+)?)?")
_IDENTITY = {"openid", "fhirUser", "profile", "email", "online_access", "offline_access"}
_V1_MEANS = {"read": "rs", "write": "cud", "*": "cruds", "all": "cruds"}
_VENDOR_MEANS = {"read": "r", "search": "s", "create": "c", "update": "u", "delete": "d"}


@dataclass(frozen=True)
class ResourceScope:
    """One right: at a level, on a type of resource, to do some interactions.

    Parameters
    ----------
    level : str
        `patient`, `user`, `system`; `*` where a vendor's scope does not say.
    resource_type : str
        FHIR type or `*`.
    interactions : str
        Letters of `cruds`.
    query : str
        Search parameters to which the right is limited (`category=...`), as granted; empty: not limited.
    """

    level: str
    resource_type: str
    interactions: str
    query: str = ""

    def covers(self, level: str, resource_type: str, interaction: str) -> bool:
        """Say whether this right allows an interaction (at least on some resources, if it is limited by a query)."""
        return (
            self.level in (level, "*")
            and self.resource_type in (resource_type, "*")
            and interaction in self.interactions
        )


@dataclass(frozen=True)
class ScopeSet:
    """The scopes of one grant.

    Parameters
    ----------
    text : str
        As the server wrote them.
    words : frozenset of str
        The scopes, one by one.
    rights : tuple of ResourceScope
        Those that are about FHIR resources.
    """

    text: str
    words: frozenset[str]
    rights: tuple[ResourceScope, ...] = field(default=())

    @classmethod
    def parse(cls, text: str) -> ScopeSet:
        """Read a scope string (RFC 6749 3.3); what is not understood is kept as a word and grants nothing."""
        words = text.split()
        return cls(text, frozenset(words), tuple(right for word in words for right in _rights(word)))

    def allows(self, level: str, resource_type: str, interaction: str) -> bool:
        """Say whether the grant allows an interaction.

        Parameters
        ----------
        level : str
            `patient`, `user` or `system`.
        resource_type : str
            FHIR type.
        interaction : str
            One letter of `cruds`.
        """
        return any(right.covers(level, resource_type, interaction) for right in self.rights)

    def has_level(self, level: str) -> bool:
        """Say whether any right is at a level."""
        return any(right.level == level for right in self.rights)

    def __contains__(self, word: str) -> bool:
        return word in self.words

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self.words))


def _rights(word: str) -> Iterator[ResourceScope]:
    if match := _V2.fullmatch(word):
        yield ResourceScope(match[1], match[2], match[3], match[4] or "")
    elif match := _V1.fullmatch(word):
        yield ResourceScope(match[1], match[2], _V1_MEANS[match[3]])
    elif match := _DOTTED.fullmatch(word):
        # Microsoft Entra ID can't hold a slash or an asterisk in a scope; gateways map them so, some with the
        # address of the API in front.
        kind = "*" if match[2] == "all" else match[2]
        yield ResourceScope(match[1], kind, _V1_MEANS.get(match[3], match[3]))
    elif match := _VENDOR.fullmatch(word):
        # Epic answers `Patient.read Patient.search`: what it allows is decided by the registration, at no named level.
        yield ResourceScope("*", match[1], _VENDOR_MEANS[match[2].lower()])


def check_requested(text: str) -> str:
    """Return scopes that a registration asks for, in order and without repeats.

    Raises
    ------
    SmartConfigurationError
        A scope that breaks SMART's grammar: interactions out of the order of `cruds`, a query in version 1, ...
    """
    words = list(dict.fromkeys(text.split()))
    for word in words:
        if not (word in _IDENTITY or _LAUNCH.fullmatch(word) or _V2.fullmatch(word) or _V1.fullmatch(word)):
            raise SmartConfigurationError(f"scope {word!r} breaks the grammar of SMART scopes")
    return " ".join(words)


def to_v1(text: str) -> str:
    """Say scopes in version 1, for a server without `permission-v2`.

    `.rs` becomes `.read`, what writes becomes `.write`; a query is left out, for version 1 has none.
    """
    words: list[str] = []
    for word in text.split():
        match = _V2.fullmatch(word)
        if match is None:
            words.append(word)
            continue
        stem = f"{match[1]}/{match[2]}"
        if set(match[3]) & set("rs"):
            words.append(f"{stem}.read")
        if set(match[3]) & set("cud"):
            words.append(f"{stem}.write")
    return " ".join(dict.fromkeys(words))
