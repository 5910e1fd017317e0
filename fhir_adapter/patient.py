"""Patients: matched by assigner and number plus a second item of identity, never overwritten (P1-P6)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fhir_adapter.assigner import Policy, allowed_systems, issuer_system
from fhir_adapter.client import FhirClient, Resource
from fhir_adapter.dicom_json import Header, text
from fhir_adapter.dicom_time import fhir_date
from fhir_adapter.human_name import families, givens, human_names, name_forms
from fhir_adapter.identity import patient_id
from fhir_adapter.terminology import MADE_BY_INTAKE, MEDICAL_RECORD
from imaging_core.sites import Site

__all__ = [
    "Demographics",
    "HoldReason",
    "PatientKey",
    "PatientMatch",
    "build",
    "build_decided",
    "candidates",
    "identity_of",
    "made_by_intake",
    "match_made",
    "match_patient",
    "replaced_by",
    "survivor",
    "token",
]

HoldReason = Literal[
    "patient-id-empty",
    "unknown-assigner",
    "assigner-not-allowed",
    "patient-not-found",
    "patient-ambiguous",
    "patient-mismatch",
    "no-second-identifier",
    "patient-conflict",
]
_SEXES = {"M": "male", "F": "female", "O": "other"}
_LONGEST_CHAIN = 8
_ABSENT_REASON = "http://hl7.org/fhir/StructureDefinition/data-absent-reason"


@dataclass(frozen=True)
class PatientKey:
    """Who the header says it is: assigner's system and number (P1)."""

    system: str
    value: str

    def search_value(self) -> str:
        """Return the value of an ``identifier`` search parameter."""
        return token(self.system, self.value)


@dataclass(frozen=True)
class Demographics:
    """The second items of identity of a header.

    Parameters
    ----------
    names : tuple
        HumanNames.
    birth_date : str
        FHIR date; empty where absent or unreadable.
    gender : str
        FHIR administrative gender; empty where absent.
    """

    names: tuple[dict[str, Any], ...] = ()
    birth_date: str = ""
    gender: str = ""


@dataclass(frozen=True)
class PatientMatch:
    """What became of the question whose study this is; exactly one of the three is set.

    Parameters
    ----------
    linked : str or None
        ``Patient/<id>`` of a Patient on the server.
    created : Resource or None
        A Patient to be written with the study.
    hold : HoldReason or None
        Why a person has to decide.
    """

    linked: str | None = None
    created: Resource | None = None
    hold: HoldReason | None = None

    @property
    def subject(self) -> str | None:
        """``Patient/<id>``, None for a hold."""
        return f"Patient/{self.created['id']}" if self.created else self.linked


def match_patient(client: FhirClient, headers: Header | Sequence[Header], policy: Policy, site: Site) -> PatientMatch:
    """Find or make the Patient of a study, or say why a person has to.

    Parameters
    ----------
    client : FhirClient
        The imaging FHIR service.
    headers : Header or sequence of Header
        Of one instance, or of all instances of the study.
    policy : {'create', 'hold'}
        What to do with a patient who is not on file.
    site : Site
        The sending site; its assigners.
    """
    key, details, hold = identity_of([headers] if isinstance(headers, Mapping) else headers, policy, site)
    if hold is not None or key is None:
        return PatientMatch(hold=hold or "patient-id-empty")
    found = _candidates(client, key)
    if len(found) > 1:
        return PatientMatch(hold="patient-ambiguous")
    if not found:
        if policy == "hold":
            return PatientMatch(hold="patient-not-found")
        if len({(families(item.names), item.birth_date) for item in details}) > 1:
            return PatientMatch(hold="patient-conflict")
        return PatientMatch(created=build(key, details[0]))
    return _judged(found[0], details)


def match_made(
    client: FhirClient, stored: Resource, headers: Sequence[Header], policy: Policy, site: Site
) -> PatientMatch:
    """Return what becomes of a study whose Patient intake would make, while he is on the server already.

    Intake made him once, and somebody has taken the number from him since, or another worker was faster. He is never
    written again: that would undo a merge, or a person's correction. After a merge the survivor is asked; a Patient
    who no longer carries the number is another one's business than a machine's.

    Parameters
    ----------
    stored : Resource
        The Patient under the id that follows from the header.
    """
    key, details, hold = identity_of(headers, policy, site)
    left = survivor(client, stored)
    if hold is not None or key is None or (left["id"] == stored["id"] and not _carries(stored, key)):
        return PatientMatch(hold=hold or "patient-mismatch")
    return _judged(left, details)


def _judged(patient: Resource, details: Sequence[Demographics]) -> PatientMatch:
    verdicts = {compare(patient, item) for item in details}
    for reason in ("patient-mismatch", "no-second-identifier"):
        if reason in verdicts:
            return PatientMatch(hold=reason)
    return PatientMatch(linked=f"Patient/{patient['id']}")


def candidates(client: FhirClient, headers: Sequence[Header], site: Site) -> list[Resource]:
    """Return the Patients that carry the number of a study's headers, for a person to choose from."""
    key, _, _ = identity_of(headers, "create", site)
    return _candidates(client, key) if key is not None else []


def identity_of(
    headers: Sequence[Header], policy: Policy, site: Site
) -> tuple[PatientKey | None, list[Demographics], HoldReason | None]:
    """Return a study's key and its headers' demographics, the most frequent first; or why there is no key (P1, P4)."""
    keys: set[PatientKey] = set()
    unnamed = unknown = False
    for header in headers:
        value = text(header.get("00100020"))
        system = issuer_system(header.get("00100021"), header.get("00100024"), site, policy)
        unnamed = unnamed or not value
        unknown = unknown or system is None
        keys.add(PatientKey(system or "", value))
    if unnamed or not keys:
        return None, [], "patient-id-empty"
    if unknown:
        return None, [], "unknown-assigner"
    if len(keys) > 1:
        return None, [], "patient-conflict"
    key = keys.pop()
    allowed = allowed_systems(site)
    if allowed is not None and key.system not in allowed:
        return None, [], "assigner-not-allowed"
    return key, _details(headers), None


def _details(headers: Sequence[Header]) -> list[Demographics]:
    """Return the headers' demographics, each once, the most frequent first."""
    counted: Counter[str] = Counter()
    held: dict[str, Demographics] = {}
    for header in headers:
        item = _demographics(header)
        mark = json.dumps([item.names, item.birth_date, item.gender], sort_keys=True)
        counted[mark] += 1
        held[mark] = item
    ordered = sorted(counted.items(), key=lambda entry: (-entry[1], entry[0]))
    return [held[mark] for mark, _ in ordered]


def build(key: PatientKey, details: Demographics) -> Resource:
    """Return the Patient that intake makes of a header (P3): deterministic id, tagged as made by intake."""
    resource: Resource = {
        "resourceType": "Patient",
        "id": patient_id(key.system, key.value),
        "meta": {"tag": [MADE_BY_INTAKE.coding()]},
        "identifier": [{"use": "usual", "type": MEDICAL_RECORD.concept(), "system": key.system, "value": key.value}],
        # US Core asks for a name; that there is none is said, not made up
        "name": [dict(name) for name in details.names]
        or [{"extension": [{"url": _ABSENT_REASON, "valueCode": "unknown"}]}],
        "gender": details.gender or "unknown",
    }
    if details.birth_date:
        resource["birthDate"] = details.birth_date
    return resource


def build_decided(headers: Sequence[Header], study_uid: str) -> Resource:
    """Return the Patient that a person had made for one held study (P4).

    Its id follows from the study, so that no existing Patient is ever written. The number of the header is not its own:
    it belongs to somebody else's chart, or to nobody who is known, and would make that chart's next study ambiguous.
    """
    details = _details(headers)
    made = build(PatientKey("urn:dicom:uid", f"urn:oid:{study_uid}"), details[0] if details else Demographics())
    made["identifier"][0] |= {"use": "temp"}
    del made["identifier"][0]["type"]
    return made


def made_by_intake(patient: Resource) -> bool:
    """Return whether the system made this Patient; no other one is ever written (P5)."""
    return any(
        tag.get("system") == MADE_BY_INTAKE.system and tag.get("code") == MADE_BY_INTAKE.code
        for tag in (patient.get("meta") or {}).get("tag") or []
    )


def compare(patient: Resource, details: Demographics) -> Literal["agrees", "patient-mismatch", "no-second-identifier"]:
    """Return whether a header's second item of identity agrees with a Patient (P2, P4).

    The birth date decides, else the family name. Beyond that, two things are contradictions even where the birth date
    agrees: a family and a first name that are both different, and a different first name with the same family name
    (twins). A family name alone may change.
    """
    names = [name for name in patient.get("name") or [] if isinstance(name, dict)]
    born = str(patient.get("birthDate") or "")
    if made_by_intake(patient):
        equal = families(details.names) == families(names) and _first(details.names) == _first(names)
        return "agrees" if equal and details.birth_date == born else "patient-mismatch"
    family = _overlap(families(details.names), families(names))
    given = _overlap(givens(details.names), givens(names))
    if (given is False and family is not None) or (family is False and given is not True):
        return "patient-mismatch"
    if details.birth_date and born:
        if details.birth_date == born:
            return "agrees"
        # a chart that knows only the year or month of birth confirms nothing by itself
        if not (len(born) < 10 and details.birth_date.startswith(born)):
            return "patient-mismatch"
    if family is None:
        return "no-second-identifier"
    return "agrees" if family else "patient-mismatch"


def survivor(client: FhirClient, patient: Resource) -> Resource:
    """Follow ``link`` of type replaced-by to the record that a merge left (P6)."""
    seen = {patient["id"]}
    for _ in range(_LONGEST_CHAIN):
        following = replaced_by(patient)
        if following is None or following in seen:
            break
        seen.add(following)
        replacing = client.read("Patient", following)
        if replacing is None:
            break
        patient = replacing
    return patient


def token(system: str | None, value: str) -> str:
    r"""Return the value of a token search parameter; ``\``, ``|``, ``,`` and ``$`` are escaped (R4 search)."""
    return f"{_escape(system)}|{_escape(value)}" if system else _escape(value)


def _candidates(client: FhirClient, key: PatientKey) -> list[Resource]:
    """Return the Patients that carry the key, merged ones replaced by their survivors, each once."""
    found: dict[str, Resource] = {}
    for resource in client.search("Patient", {"identifier": key.search_value(), "_count": "20"}):
        # the server's answer is checked: some compare identifiers without case
        if resource.get("resourceType") == "Patient" and _carries(resource, key):
            left = survivor(client, resource)
            found[left["id"]] = left
    return list(found.values())


def _escape(value: str) -> str:
    for char in ("\\", "|", ",", "$"):
        value = value.replace(char, f"\\{char}")
    return value


def _carries(patient: Resource, key: PatientKey) -> bool:
    return any(
        identifier.get("system") == key.system and identifier.get("value") == key.value
        for identifier in patient.get("identifier") or []
    )


def _demographics(header: Header) -> Demographics:
    return Demographics(
        tuple(human_names(header.get("00100010"))),
        fhir_date(text(header.get("00100030"))) or "",
        _SEXES.get(text(header.get("00100040")).upper(), ""),
    )


def _first(names: Sequence[Mapping[str, Any]]) -> set[frozenset[str]]:
    return {
        forms
        for name in names
        if (forms := frozenset(form for part in name.get("given") or [] for form in name_forms(str(part))))
    }


def _overlap(left: frozenset[str], right: frozenset[str]) -> bool | None:
    """Return whether two sets of spellings meet; None where one of them is empty."""
    if not left or not right:
        return None
    # an initial agrees with the name that it begins
    short = any(a.startswith(b) or b.startswith(a) for a in left for b in right if min(len(a), len(b)) == 1)
    return bool(left & right) or short


def replaced_by(patient: Resource) -> str | None:
    """Return the id of the Patient that a merge put in this one's place (``link`` of type replaced-by); None: none."""
    for link in patient.get("link") or []:
        target = str((link.get("other") or {}).get("reference") or "")
        if link.get("type") == "replaced-by" and "/" in target:
            kind, _, id_ = target.rpartition("/")
            if kind.rpartition("/")[2] == "Patient":
                return id_
    return None
