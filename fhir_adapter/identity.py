"""Deterministic ids of every resource that the system writes (I1).

An id is a UUIDv5 over the study's UID, the resource's role and a revision number. The model's version is no
part of it: a re-run updates the same unsigned resources, and their history keeps what was said before. The
revision grows only when a signed report has to be followed by a new one (R7).
"""

from __future__ import annotations

import uuid

__all__ = [
    "IMAGING_STUDY",
    "NAMESPACE",
    "device_id",
    "dicom_uid",
    "endpoint_id",
    "media_role",
    "observation_role",
    "patient_id",
    "provenance_role",
    "report_role",
    "resource_id",
]

NAMESPACE = uuid.UUID("6f1d3c0e-3a53-5b0c-9b1e-0d6a4c8f7b21")
"""UUID namespace of this system's ids; changing it would orphan everything ever written."""

IMAGING_STUDY = "imaging-study"
"""Role of the study's ImagingStudy."""


def resource_id(study_uid: str, role: str, revision: int = 0) -> str:
    """Return the id of a study's resource.

    Parameters
    ----------
    study_uid : str
        StudyInstanceUID (0020,000D), dotted.
    role : str
        What the resource is to the study: `IMAGING_STUDY` or the result of one of the ``*_role`` functions.
    revision : int
        0 for the first report of a task, n for the n-th that follows a signed one.
    """
    return str(uuid.uuid5(NAMESPACE, f"urn:dicom:uid:{study_uid}|{role}|{revision}"))


def dicom_uid(study_uid: str, role: str, revision: int = 0) -> str:
    """Return the UID of a DICOM object that the system makes itself: ``2.25.`` and the UUID as a number (PS3.5 B.2)."""
    return f"2.25.{uuid.UUID(resource_id(study_uid, role, revision)).int}"


def report_role(task: str) -> str:
    """Role of the DiagnosticReport of a task such as ``chest-opacity``."""
    return f"report:{task}"


def observation_role(task: str, finding: str) -> str:
    """Role of the Observation of one finding of a task."""
    return f"observation:{task}:{finding}"


def provenance_role(task: str) -> str:
    """Role of the Provenance that the machine writes for a task."""
    return f"provenance:{task}"


def media_role(task: str) -> str:
    """Role of the key image of a task."""
    return f"media:{task}"


def patient_id(system: str, value: str) -> str:
    """Return the id of the Patient that intake makes for the key (assigner, PatientID) (P3)."""
    return str(uuid.uuid5(NAMESPACE, f"urn:imaging:patient|{system}|{value}"))


def endpoint_id(address: str) -> str:
    """Return the id of the Endpoint of a DICOMweb address."""
    return str(uuid.uuid5(NAMESPACE, f"urn:imaging:endpoint|{address}"))


def device_id(name: str, version: str) -> str:
    """Return the id of the Device that stands for a model version (R4)."""
    return str(uuid.uuid5(NAMESPACE, f"urn:imaging:model|{name}|{version}"))
