"""Launch context that arrives with the access token (SMART 2.2, "Launch context arrives with your access_token")."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import structlog

from smart_launch.errors import LaunchError

__all__ = ["ContextItem", "LaunchContext"]

_log = structlog.get_logger("smart_launch")
_ID = re.compile(r"[A-Za-z0-9\-.]{1,64}")
_REFERENCE = re.compile(r"[A-Z][A-Za-z]{1,63}/[A-Za-z0-9\-.]{1,64}")
_MAX_ITEMS = 200
_MAX_TEXT = 2048


@dataclass(frozen=True)
class ContextItem:
    """One entry of `fhirContext`.

    Parameters
    ----------
    reference : str
        `Type/id` on the launching server; empty where the entry has none.
    canonical : str
        Canonical URL.
    identifier_system, identifier_value : str
        Business identifier, such as an accession number or `urn:dicom:uid`.
    type : str
        Type of the resource meant.
    role : str
        `launch` where the server does not say.
    """

    reference: str = ""
    canonical: str = ""
    identifier_system: str = ""
    identifier_value: str = ""
    type: str = ""
    role: str = "launch"


@dataclass(frozen=True)
class LaunchContext:
    """What the EHR said about the situation that the app was opened in."""

    patient: str | None = None
    encounter: str | None = None
    fhir_context: tuple[ContextItem, ...] = ()
    need_patient_banner: bool = True
    intent: str = ""
    smart_style_url: str = ""
    tenant: str = ""
    token_locations: tuple[str, ...] = ()

    @classmethod
    def from_token_response(cls, document: Mapping[str, Any], fhir_base: str) -> LaunchContext:
        """Read the context members of a token response; members that are not known are ignored.

        Raises
        ------
        LaunchError
            `token-unusable`: `patient` is there but names no single patient of this server. Showing some other patient
            would be worse than showing none.
        """
        return cls(
            patient=_patient(document.get("patient"), fhir_base),
            encounter=_encounter(document.get("encounter"), fhir_base),
            fhir_context=_fhir_context(document.get("fhirContext"), fhir_base),
            need_patient_banner=document.get("need_patient_banner") is not False,
            intent=_short(document.get("intent")),
            smart_style_url=_short(document.get("smart_style_url")),
            tenant=_short(document.get("tenant")),
            token_locations=_locations(document.get("authorization_details")),
        )

    def as_json(self) -> dict[str, Any]:
        """Return the context as it is stored."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> LaunchContext:
        """Return the context that `as_json` stored."""
        values = dict(stored)
        known = {item.name for item in fields(cls)}
        values = {name: value for name, value in values.items() if name in known}  # stored by another version
        values["token_locations"] = tuple(values.get("token_locations", ()))
        values["fhir_context"] = tuple(ContextItem(**item) for item in values["fhir_context"])
        return cls(**values)


def _patient(value: object, fhir_base: str) -> str | None:
    if value is None or value == "":
        return None
    found = _resource_id(value, "Patient", fhir_base)
    if found is None:
        raise LaunchError("token-unusable", "patient is not an id of this server")
    return found


def _encounter(value: object, fhir_base: str) -> str | None:
    if value is None or value == "":
        return None
    found = _resource_id(value, "Encounter", fhir_base)
    if found is None:
        _log.warning("smart.context.encounter_ignored")
    return found


def _resource_id(value: object, kind: str, fhir_base: str) -> str | None:
    """Return a bare id: servers also send numbers, `Patient/1`, or the address on their own server."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        return None
    text = value.removeprefix(f"{fhir_base.rstrip('/')}/").removeprefix(f"{kind}/")
    return text if _ID.fullmatch(text) and text.strip(".") else None


def _fhir_context(value: object, fhir_base: str) -> tuple[ContextItem, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or len(value) > _MAX_ITEMS:
        _log.warning("smart.context.fhir_context_ignored")
        return ()
    return tuple(item for entry in value if (item := _item(entry, fhir_base)) is not None)


def _item(entry: object, fhir_base: str) -> ContextItem | None:
    if isinstance(entry, str):  # SMART 1 and 2.0 sent bare references
        entry = {"reference": entry}
    if not isinstance(entry, dict):
        return None
    raw = entry.get("reference")
    reference = _short(raw.get("reference") if isinstance(raw, dict) else raw)
    reference = reference.removeprefix(f"{fhir_base.rstrip('/')}/")
    identifier = entry.get("identifier")
    system, number = "", ""
    if isinstance(identifier, dict):
        system, number = _short(identifier.get("system")), _short(identifier.get("value"))
    item = ContextItem(
        # An address on another server stays out: nothing is ever read there with this launch's token.
        reference=reference if _REFERENCE.fullmatch(reference) else "",
        canonical=_short(entry.get("canonical")),
        identifier_system=system,
        identifier_value=number,
        type=_short(entry.get("type")),
        role=_short(entry.get("role")) or "launch",
    )
    return item if item.reference or item.canonical or item.identifier_value else None


def _locations(value: object) -> tuple[str, ...]:
    """Return where the token may go: `locations` of the entries of type `smart_on_fhir` (SMART 2.2, experimental)."""
    found: list[str] = []
    for entry in value[:_MAX_ITEMS] if isinstance(value, list) else []:
        if isinstance(entry, dict) and entry.get("type") == "smart_on_fhir":
            listed = entry.get("locations")
            found += [text for item in (listed if isinstance(listed, list) else []) if (text := _short(item))]
    return tuple(found)


def _short(value: object) -> str:
    return value if isinstance(value, str) and len(value) <= _MAX_TEXT and value.isprintable() else ""
