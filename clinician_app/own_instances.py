"""The patient's instances as the ledger holds them: what DICOMweb searches and retrieves, and nothing beside it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from clinician_app.own_studies import of_patient
from imaging_core.database import Pool

__all__ = ["OwnInstance", "own_instances"]

_COLUMNS = "study_uid, series_uid, sop_uid, sop_class_uid, transfer_syntax_uid, blob, header, linked, decided_at"


@dataclass(frozen=True)
class OwnInstance:
    """One instance.

    Parameters
    ----------
    study_uid, series_uid, sop_uid, sop_class_uid, transfer_syntax_uid : str
        UIDs.
    blob : str
        Name in container ``images``.
    header : dict
        DICOM JSON model without bulk data.
    linked : bool
        A person linked the study to another Patient than the header names.
    decided_at : datetime or None
        When.
    """

    study_uid: str
    series_uid: str
    sop_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    blob: str
    header: dict[str, Any]
    linked: bool
    decided_at: datetime | None


def own_instances(
    pool: Pool,
    patient: str,
    *,
    studies: Collection[str] | None = None,
    study_uid: str = "",
    series_uid: str = "",
    sop_uid: str = "",
    most: int,
) -> list[OwnInstance]:
    """Return instances of the patient's, by study, series and number.

    Parameters
    ----------
    studies : collection of str, optional
        Only those of these studies: what FHIR shows to a launch.
    study_uid, series_uid, sop_uid : str
        Only those; '': any.
    most : int
        Most instances that are returned.
    """
    with of_patient(pool, patient) as connection:
        rows = connection.execute(
            f"SELECT {_COLUMNS} FROM ledger.own_instance"  # noqa: S608  # fixed words
            " WHERE (%(study)s = '' OR study_uid = %(study)s) AND (%(series)s = '' OR series_uid = %(series)s)"
            " AND (%(sop)s = '' OR sop_uid = %(sop)s) AND (%(studies)s::text[] IS NULL OR study_uid = ANY(%(studies)s))"
            " ORDER BY study_uid, series_uid, sop_uid LIMIT %(most)s",
            {
                "study": study_uid,
                "series": series_uid,
                "sop": sop_uid,
                "studies": None if studies is None else sorted(studies),
                "most": most,
            },
        ).fetchall()
    return [OwnInstance(*row) for row in rows]
