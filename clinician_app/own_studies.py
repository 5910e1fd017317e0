"""Which of the studies that a FHIR service names are really the patient's: what the ledger says, not what FHIR claims.

Images, heatmaps and result files lie under study UIDs, and any FHIR service may write any UID into an ImagingStudy. So
they are shown only in launches at this installation's own imaging FHIR service, where a Patient's id means the same as
in the ledger, and only where the ledger holds the study under that very Patient.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import psycopg

from clinician_app.fhir_values import reference_id
from fhir_adapter.client import FhirClient
from imaging_core.database import Pool, unit_of_work
from imaging_core.settings import Settings

__all__ = ["NOTHING_OWN", "OwnStudies", "is_own_service", "of_patient", "own_studies", "patient_of_study"]


@dataclass(frozen=True)
class OwnStudies:
    """Study UIDs that the ledger holds under one patient.

    Parameters
    ----------
    shown : frozenset of str
        Those whose images and results may be shown.
    known : frozenset of str
        Those, and the ones that are on hold: the pages say so.
    """

    shown: frozenset[str] = field(default=frozenset())
    known: frozenset[str] = field(default=frozenset())


NOTHING_OWN = OwnStudies()


def is_own_service(base: str, settings: Settings) -> bool:
    """Return whether a FHIR base URL is the imaging FHIR service of this installation (FHIR_BASE_URL, FHIR_ALIASES)."""
    mine = {_plain(url) for url in (settings.fhir_base_url, *settings.fhir_aliases) if url}
    return bool(base) and _plain(base) in mine


def own_studies(pool: Pool, patient: str) -> OwnStudies:
    """Return what the ledger holds under a Patient of the imaging FHIR service.

    Parameters
    ----------
    pool : Pool
        Connections of role ``imaging_page``.
    patient : str
        Id of the Patient.
    """
    with of_patient(pool, patient) as connection:
        rows = connection.execute("SELECT study_uid, held FROM ledger.own_study").fetchall()
    return OwnStudies(frozenset(uid for uid, held in rows if not held), frozenset(uid for uid, _ in rows))


@contextmanager
def of_patient(pool: Pool, patient: str) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    """Open a transaction in which the ledger's views show one patient's studies and no others."""
    with unit_of_work(pool) as connection:
        connection.execute("SELECT set_config('imaging.subject', %s, true)", (f"Patient/{patient}" if patient else "",))
        yield connection


def patient_of_study(client: FhirClient, study_uid: str, base: str) -> str:
    """Return whose study it is by the imaging FHIR service: a Patient's id; '' where that is nobody, or several."""
    found = client.search("ImagingStudy", {"identifier": f"urn:dicom:uid|urn:oid:{study_uid}"})
    patients = {reference_id(item.get("subject"), "Patient", base) for item in found}
    return patients.pop() or "" if len(patients) == 1 else ""


def _plain(url: str) -> tuple[str, str, int | None, str]:
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, (parts.hostname or "").lower(), port, parts.path.rstrip("/")
