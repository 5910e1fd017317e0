"""Who may sign (R6): the rule `signers` of an EHR's registration, asked of that EHR's own PractitionerRoles.

A practitioner's identity is not enough. What can't be looked up, or is not said, is no right.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from clinician_app.fhir_values import (
    Identifier,
    Resource,
    codes,
    identifiers,
    moment,
    objects,
    person_name,
    reference_id,
    text,
)
from fhir_adapter.signoff import Signer
from imaging_core.errors import Permanent
from imaging_core.telemetry import get_logger
from smart_launch import FhirAccessError, FhirSession, LaunchSession

__all__ = ["NoRight", "SignersRule", "SigningRight", "SigningRights", "find_right"]

NoRight = Literal["", "no-rule", "no-user", "no-role", "not-known"]

_RULE = re.compile(r"PractitionerRole\.code in (\S+(?:, ?\S+)*)")
_TOKEN = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*:[^\s|,]+)\|([^\s|,]+)")
# Numbers of people that mean something in other systems too: US NPI, French RPPS.
_PERSON_NUMBERS = (
    "http://hl7.org/fhir/sid/us-npi",
    "https://rpps.esante.gouv.fr",
    "urn:oid:1.2.250.1.71.4.2.1",
)
_KEEP_S = 120.0


@dataclass(frozen=True)
class SignersRule:
    """``PractitionerRole.code in SYSTEM|CODE[, SYSTEM|CODE ...]``: one of these roles must be the user's.

    Parameters
    ----------
    roles : frozenset of (str, str)
        System and code; empty: nobody signs.
    """

    roles: frozenset[tuple[str, str]] = frozenset()

    @classmethod
    def parse(cls, rule: str) -> SignersRule:
        """Read a rule; the empty one lets nobody sign.

        Raises
        ------
        Permanent
            ``bad-setting``: it is written in any other way. A rule that is half understood would be no rule.
        """
        if not rule.strip():
            return cls()
        match = _RULE.fullmatch(rule.strip())
        tokens = [_TOKEN.fullmatch(item.strip()) for item in match[1].split(",")] if match else [None]
        if not all(tokens):
            raise Permanent(
                "bad-setting", f"signers is 'PractitionerRole.code in SYSTEM|CODE[, SYSTEM|CODE]', not {rule!r}"
            )
        return cls(frozenset((token[1], token[2]) for token in tokens if token))


@dataclass(frozen=True)
class SigningRight:
    """Whether the launch's user may sign, and as whom.

    Parameters
    ----------
    signer : Signer or None
        None: they may not.
    why_not : str
        ``no-rule`` (nobody signs from this EHR), ``no-user`` (the EHR did not say who it is), ``no-role`` (the user has
        none of the roles), ``not-known`` (the EHR would not or could not tell).
    """

    signer: Signer | None
    why_not: NoRight = ""


def find_right(launch: LaunchSession, session: FhirSession, rule: SignersRule, *, local: bool) -> SigningRight:
    """Ask the EHR whether the launch's user has one of the rule's roles.

    Parameters
    ----------
    launch : LaunchSession
        Its ``fhirUser`` is a verified claim.
    session : FhirSession
        Reads with the launch's token.
    rule : SignersRule
        Of the launch's registration.
    local : bool
        Whether the EHR's FHIR service is the imaging FHIR service: then the signer is named by a literal reference.
    """
    if not rule.roles:
        return SigningRight(None, "no-rule")
    kind, _, name = (launch.fhir_user or "").partition("/")
    if kind not in ("Practitioner", "PractitionerRole") or not name or not launch.subject:
        return SigningRight(None, "no-user")
    try:
        roles = _roles(launch, session, kind, name)
    except FhirAccessError as error:
        get_logger(__name__).warning("signing-right-unknown", ehr=launch.ehr.name, status=error.status)
        return SigningRight(None, "not-known")
    if roles is None:
        return SigningRight(None, "not-known")
    fitting = [item for item in roles if _in_force(item) and _codes(item) & rule.roles]
    if not fitting:
        return SigningRight(None, "no-role")
    return SigningRight(_signer(launch, session, fitting[0], kind, name, local=local))


def _roles(launch: LaunchSession, session: FhirSession, kind: str, name: str) -> list[Resource] | None:
    """Return the user's roles; None where the granted scopes do not let the app ask."""
    if kind == "PractitionerRole":
        if not _allows(launch, "PractitionerRole", "r"):
            return None
        found = session.get_json(f"PractitionerRole/{name}")
        return [found] if found.get("resourceType") == kind and found.get("id") == name else []
    if not _allows(launch, "PractitionerRole", "s"):
        return None
    wanted = {"practitioner": f"Practitioner/{name}", "_count": "50"}
    return [
        item
        for item in session.search("PractitionerRole", wanted)
        # whatever the server found, the role must say itself that it is this person's
        if item.get("resourceType") == "PractitionerRole"
        and reference_id(item.get("practitioner"), "Practitioner", launch.fhir_base) == name
    ]


def _allows(launch: LaunchSession, resource_type: str, interaction: str) -> bool:
    return any(launch.scopes.allows(level, resource_type, interaction) for level in ("user", "patient"))


def _in_force(role: Resource) -> bool:
    if role.get("active") is False:
        return False
    period = role.get("period")
    if not isinstance(period, dict):
        return True
    today = datetime.now(UTC).date()
    start, end = moment(period.get("start")), moment(period.get("end"))
    if (period.get("start") and start is None) or (period.get("end") and end is None):
        return False  # a period that can't be read is no proof
    return (start is None or start.date <= today) and (end is None or end.date >= today)


def _codes(role: Resource) -> set[tuple[str, str]]:
    return {pair for concept in objects(role.get("code")) for pair in codes(concept)}


def _signer(
    launch: LaunchSession, session: FhirSession, role: Resource, kind: str, name: str, *, local: bool
) -> Signer:
    person = role.get("practitioner")
    practitioner = name if kind == "Practitioner" else reference_id(person, "Practitioner", launch.fhir_base)
    resource = _practitioner(launch, session, practitioner)
    told = text(person.get("display"), 200) if isinstance(person, dict) else ""
    number = _number(identifiers(resource.get("identifier"))) if resource else ("", "")
    display = (_spoken(resource) if resource else "") or told or f"{kind}/{name}"
    return Signer(display, launch.iss, f"{kind}/{name}", *number, local=local)


def _practitioner(launch: LaunchSession, session: FhirSession, name: str) -> Resource | None:
    """Return the person's Practitioner, which only gives a name: without it the EHR's display is used (S66)."""
    if not name or not _allows(launch, "Practitioner", "r"):
        return None
    try:
        found = session.get_json(f"Practitioner/{name}")
    except FhirAccessError:
        return None
    return found if found.get("resourceType") == "Practitioner" and found.get("id") == name else None


def _spoken(practitioner: Resource) -> str:
    for entry in objects(practitioner.get("name")):
        if said := text(entry.get("text"), 200):
            return said
    name = person_name(practitioner.get("name"))
    return " ".join(filter(None, (name.given, name.family))) or name.text


def _number(found: Sequence[Identifier]) -> tuple[str, str]:
    return next(
        ((item.system, item.value) for system in _PERSON_NUMBERS for item in found if item.system == system), ("", "")
    )


class SigningRights:
    """The rights of running launches: remembered for two minutes for pages, asked anew for an act.

    Parameters
    ----------
    rules : mapping of str to SignersRule
        By the registration's name.
    """

    def __init__(self, rules: dict[str, SignersRule]) -> None:
        self._rules = rules
        self._kept: dict[str, tuple[float, SigningRight]] = {}
        self._lock = threading.Lock()

    def of(self, launch: LaunchSession, session: FhirSession, *, local: bool, fresh: bool = False) -> SigningRight:
        """Return the right of a launch's user.

        Parameters
        ----------
        fresh : bool
            Ask the EHR now, whatever was remembered.
        """
        now = time.monotonic()
        with self._lock:
            kept = self._kept.get(launch.launch_id)
        if kept and not fresh and now - kept[0] < _KEEP_S:
            return kept[1]
        right = find_right(launch, session, self._rules.get(launch.ehr.name, SignersRule()), local=local)
        with self._lock:
            self._kept = {name: item for name, item in self._kept.items() if now - item[0] < _KEEP_S}
            if right.why_not != "not-known":  # a moment's failure is not remembered
                self._kept[launch.launch_id] = (now, right)
        return right
