"""Who assigned a number: DICOM issuers (PS3.3 Table 10-17) as identifier systems (P1)."""

from __future__ import annotations

import re
from typing import Literal
from urllib.parse import quote

from fhir_adapter.dicom_json import Attribute, first_item, text
from imaging_core.sites import Site

__all__ = ["Policy", "accession_system", "admission_system", "allowed_systems", "issuer_system"]

Policy = Literal["create", "hold"]

_OID = re.compile(r"[0-2](\.(0|[1-9]\d*))+")
_URI = re.compile(r"(https?://|urn:[a-z0-9][a-z0-9-]{0,31}:)\S+", re.IGNORECASE)


def issuer_system(issuer: Attribute, qualifiers: Attribute, site: Site, policy: Policy) -> str | None:
    """Return the system of a PatientID, None where its issuer is unknown (P1).

    Parameters
    ----------
    issuer : Attribute
        Issuer of Patient ID (0010,0021).
    qualifiers : Attribute
        Issuer of Patient ID Qualifiers Sequence (0010,0024).
    site : Site
        Gives the table of issuers and the system of numbers without one.
    policy : {'create', 'hold'}
        Whether an issuer's unknown text may become a system of its own.
    """
    universal = _universal(qualifiers)
    if universal:
        return universal
    item = first_item(qualifiers)
    # a universal id of another kind (DNS, X400 ...) is an issuer's text like any other
    named = text(issuer) or text(item.get("00400031")) or text(item.get("00400032"))
    if not named:
        return site.assigner_system or None
    return _named(named, site) or (_own_system(named) if policy == "create" else None)


def accession_system(issuer: Attribute, site: Site) -> str | None:
    """Return the system of an accession number: Issuer of Accession Number Sequence (0008,0051), else the site's."""
    universal = _universal(issuer)
    if universal:
        return universal
    named = text(first_item(issuer).get("00400031"))
    if named:
        return _named(named, site) or _own_system(named)
    return site.assigner_system or None


def admission_system(issuer: Attribute) -> str | None:
    """Return the system of an admission id: Issuer of Admission ID Sequence (0038,0014); None where it names none."""
    return _universal(issuer)


def allowed_systems(site: Site) -> frozenset[str] | None:
    """Return the systems that a site's clients may use; None: any."""
    return frozenset({site.assigner_system, *site.assigners.values()}) if site.exclusive else None


def _universal(sequence: Attribute) -> str | None:
    item = first_item(sequence)
    identity = text(item.get("00400032"))
    kind = text(item.get("00400033")).upper()
    if not identity:
        return None
    if kind in ("ISO", "") and _OID.fullmatch(identity):
        return f"urn:oid:{identity}"
    if kind == "UUID":
        return f"urn:uuid:{identity.lower()}"
    if kind in ("URI", "") and _URI.fullmatch(identity):
        return identity
    return None


def _named(named: str, site: Site) -> str | None:
    if known := site.assigners.get(named):
        return known
    if _OID.fullmatch(named):
        return f"urn:oid:{named}"
    return named if _URI.fullmatch(named) else None


def _own_system(named: str) -> str:
    return f"urn:imaging:assigner:{quote(named, safe='')}"
