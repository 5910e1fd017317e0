"""Held studies: what a person sees of one, and the person's decision with its audit (P4, A1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import psycopg

from fhir_adapter.client import FhirClient, Resource
from fhir_adapter.patient import candidates
from imaging_core.database import Pool, unit_of_work
from imaging_core.errors import Permanent, Retryable
from imaging_core.ledger import holds as ledger
from imaging_core.ledger.holds import Action
from imaging_core.queues import STUDIES, Queues
from imaging_core.sites import Sites
from ingestion_functions import audit

__all__ = ["IDENTITY", "choices", "resolve", "said"]

IDENTITY = {
    "00100020": "patient id",
    "00100021": "issuer",
    "00100010": "name",
    "00100030": "birth date",
    "00100040": "sex",
    "00080050": "accession",
    "00080020": "study date",
    "00080060": "modality",
    "00081030": "description",
}
"""What a person compares: attributes of the headers, by tag."""


def said(headers: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return the values of each attribute that a person compares, over all instances of a study."""
    return {name: sorted({_value(header.get(tag, {})) for header in headers} - {""}) for tag, name in IDENTITY.items()}


def _value(element: Mapping[str, Any]) -> str:
    values = element.get("Value")
    first = values[0] if isinstance(values, list) and values else ""
    return str(first.get("Alphabetic", "")) if isinstance(first, dict) else str(first)


def choices(fhir: FhirClient, sites: Sites, site: str, headers: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the Patients on the server that carry the study's number: id, name, birth date, sex.

    Raises
    ------
    Retryable
        The FHIR service is away.
    """
    return [
        {
            "patient": patient["id"],
            "name": _name(patient),
            "birth_date": str(patient.get("birthDate") or ""),
            "sex": str(patient.get("gender") or ""),
        }
        for patient in candidates(fhir, headers, sites.named(site))
    ]


def _name(patient: Resource) -> str:
    for name in patient.get("name") or []:
        text = str(name.get("text") or " ".join([*name.get("given", []), name.get("family", "")])).strip()
        if text:
            return text
    return ""


def resolve(
    pool: Pool,
    queues: Queues,
    fhir: FhirClient,
    study_uid: str,
    action: Action,
    *,
    who: str,
    client: str,
    patient: str = "",
    reason: str = "",
    revision: int | None = None,
) -> None:
    """Record a decision with its audit; the study then flows on by itself.

    Parameters
    ----------
    patient : str
        Id of the Patient to link to.
    revision : int or None
        The hold that the person saw; None: the one that is there.

    Raises
    ------
    Permanent
        See `imaging_core.ledger.holds.resolve`; ``patient-not-found`` where there is no such Patient.
    Retryable
        A store is away; nothing was decided.
    """
    if (action == "link") != bool(patient):
        raise Permanent("bad-field", "link needs a Patient, and only link does")
    subject = _subject(fhir, patient) if patient else None
    with unit_of_work(pool) as connection:
        ledger.resolve(connection, study_uid, action, who=who, subject=subject, reason=reason, revision=revision)
        _note(connection, study_uid, who, client, subject)
    if action != "reject":
        try:
            queues.send(STUDIES, {"study_uid": study_uid})
        except Retryable:
            return  # the sweep looks at held studies again


def _subject(fhir: FhirClient, patient: str) -> str:
    id_ = patient.removeprefix("Patient/")
    if not id_ or "/" in id_ or fhir.read("Patient", id_) is None:
        raise Permanent("patient-not-found", "there is no such Patient on the FHIR service")
    return f"Patient/{id_}"


def _note(connection: psycopg.Connection[Any], study_uid: str, who: str, client: str, subject: str | None) -> None:
    what = f"urn:oid:{study_uid}"
    audit.note(connection, "hold-resolved", client=client, what=what, patient=subject, user=who)
