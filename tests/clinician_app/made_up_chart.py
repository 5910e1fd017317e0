"""Made-up patients with real images (of PyPI's `pydicom-data`), as the pipeline writes them to FHIR and blobs."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import numpy as np
from pydicom import dcmread

from ai_container.heatmap import overlay_png
from fhir_adapter.terminology import (
    AIAST,
    BAND_HIGH,
    BAND_LOW,
    CATEGORY_IMAGING,
    FINDING_STATES,
    PROBABILITY,
    SCT,
    THRESHOLD,
)
from imaging_core.blobs import BlobStore

Resource = dict[str, Any]

PATIENT_SYSTEM = "https://hospital.example/patient-numbers"
CHEST, LEG, BRAIN = "RG1_UNCI.dcm", "RG3_UNCI.dcm", "MR2_UNCI.dcm"
_ANIMAL = "2.25.20"


def uid(number: int) -> str:
    """Return a UID of the made-up charts."""
    return f"{_ANIMAL}.{number}"


@dataclass(frozen=True)
class MadeUpStudy:
    """One study: an ImagingStudy with one series, and the files that it is made of."""

    number: int
    patient: str
    started: str
    description: str
    modality: str
    files: tuple[str, ...]
    body_site: str = ""
    accession: str = ""

    @property
    def uid(self) -> str:
        return uid(self.number * 1000)

    @property
    def series_uid(self) -> str:
        return uid(self.number * 1000 + 1)

    def sop_uid(self, index: int = 0) -> str:
        return uid(self.number * 1000 + 2 + index)

    @property
    def id(self) -> str:
        return f"study-{self.number}"

    @property
    def resource(self) -> Resource:
        series: Resource = {
            "uid": self.series_uid,
            "number": 1,
            "modality": {"system": "http://dicom.nema.org/resources/ontology/DCM", "code": self.modality},
            "numberOfInstances": len(self.files),
            "instance": [
                {
                    "uid": self.sop_uid(index),
                    "number": index + 1,
                    "sopClass": {"system": "urn:ietf:rfc:3986", "code": "urn:oid:1.2.840.10008.5.1.4.1.1.1"},
                }
                for index in range(len(self.files))
            ],
        }
        if self.body_site:
            series["bodySite"] = {"system": SCT, "code": "51185008", "display": self.body_site}
        identifiers = [{"system": "urn:dicom:uid", "value": f"urn:oid:{self.uid}"}]
        if self.accession:
            kind = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "ACSN"}]}
            identifiers.append({"type": kind, "system": "urn:oid:1.2.3", "value": self.accession})  # type: ignore[dict-item]
        return {
            "resourceType": "ImagingStudy",
            "id": self.id,
            "identifier": identifiers,
            "status": "available",
            "subject": {"reference": f"Patient/{self.patient}"},
            "started": self.started,
            "modality": [{"system": "http://dicom.nema.org/resources/ontology/DCM", "code": self.modality}],
            "description": self.description,
            "numberOfSeries": 1,
            "numberOfInstances": len(self.files),
            "series": [series],
        }

    def file(self, index: int) -> bytes:
        """Return a file with this study's UIDs and patient."""
        dataset = dcmread(io.BytesIO(real_file(self.files[index])))
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = self.uid, self.series_uid
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = self.sop_uid(index)
        dataset.PatientID, dataset.PatientName = self.patient, f"{self.patient}^Made Up"
        dataset.StudyDate, dataset.StudyTime = self.started[:10].replace("-", ""), self.started[11:19].replace(":", "")
        dataset.StudyDescription, dataset.Modality = self.description, self.modality
        dataset.AccessionNumber, dataset.InstanceNumber = self.accession, index + 1
        out = io.BytesIO()
        dataset.save_as(out)
        return b"<script>".ljust(128) + out.getvalue()[128:]

    def put_images(self, blobs: BlobStore) -> None:
        """Store the files where intake stores them."""
        for index in range(len(self.files)):
            blobs.put("images", f"{self.uid}/{self.series_uid}/{self.sop_uid(index)}.dcm", self.file(index))


@dataclass(frozen=True)
class MadeUpFinding:
    """One Observation of a model."""

    name: str
    state: str
    probability: float | None = None
    threshold: float | None = 0.35
    reason: str = ""
    band: tuple[float, float] | None = None


@dataclass(frozen=True)
class MadeUpReport:
    """One report of the model, with its files."""

    study: MadeUpStudy
    findings: tuple[MadeUpFinding, ...]
    status: str = "preliminary"
    revision: int = 0
    task: str = "chest-opacity"
    conclusion: str = ""
    result: Resource = field(default_factory=dict)
    interpreter: str = ""

    @property
    def id(self) -> str:
        return f"report-{self.study.number}-{self.task}-{self.revision}"

    @property
    def path(self) -> str:
        return f"{self.study.uid}/{self.task}/{self.revision}"

    def resources(self) -> list[Resource]:
        security = [{"system": AIAST.system, "code": AIAST.code, "display": AIAST.display}]
        observations = [
            self._observation(finding, f"{self.id}-f{index}", security) for index, finding in enumerate(self.findings)
        ]
        report: Resource = {
            "resourceType": "DiagnosticReport",
            "id": self.id,
            "meta": {"security": security},
            "identifier": [{"system": "urn:imaging:report", "value": self.path}],
            "status": self.status,
            "category": [
                {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0074", "code": "RAD"}]},
                {"coding": [{"system": "http://loinc.org", "code": "LP29684-5"}]},
            ],
            "code": {"coding": [{"system": "http://loinc.org", "code": "36554-4", "display": "XR Chest Single view"}]},
            "subject": {"reference": f"Patient/{self.study.patient}"},
            "effectiveDateTime": self.study.started,
            "issued": self.study.started,
            "imagingStudy": [{"reference": f"ImagingStudy/{self.study.id}"}],
            "result": [{"reference": f"Observation/{item['id']}"} for item in observations],
        }
        if self.conclusion:
            report["conclusion"] = self.conclusion
        if self.interpreter:
            report["resultsInterpreter"] = [{"display": self.interpreter}]
        return [*observations, report]

    def _observation(self, finding: MadeUpFinding, name: str, security: list[Resource]) -> Resource:
        observation: Resource = {
            "resourceType": "Observation",
            "id": name,
            "meta": {"security": security},
            "status": "preliminary",
            "category": [CATEGORY_IMAGING.concept()],
            "code": {"coding": [{"system": SCT, "code": "128477000"}], "text": finding.name},
            "subject": {"reference": f"Patient/{self.study.patient}"},
            "device": {"reference": "Device/model", "display": "chest-opacity 1.0.0"},
        }
        if finding.state == "not-assessed":
            observation["dataAbsentReason"] = {
                "coding": [
                    {"system": "http://terminology.hl7.org/CodeSystem/data-absent-reason", "code": "not-performed"}
                ],
                "text": finding.reason,
            }
            return observation
        observation["valueCodeableConcept"] = FINDING_STATES[finding.state].concept()
        components = [(PROBABILITY, finding.probability), (THRESHOLD, finding.threshold)]
        if finding.band:
            components += [(BAND_LOW, finding.band[0]), (BAND_HIGH, finding.band[1])]
        observation["component"] = [
            {"code": code.concept(), "valueQuantity": {"value": number, "unit": "1", "code": "1"}}
            for code, number in components
            if number is not None
        ]
        return observation

    def put_result(self, blobs: BlobStore, heat: tuple[float, float] | None = (0.34, 0.62)) -> None:
        """Store result.json and, with `heat` (where it is warmest, as parts of width and height), a heatmap."""
        sop = self.study.sop_uid()
        result = {
            "study_uid": self.study.uid,
            "task": self.task,
            "revision": self.revision,
            "model": {"name": "chest-opacity", "version": "1.0.0", "sha256": "5f0c" * 16},
            "instances": [
                {"sop_uid": sop, "series_uid": self.study.series_uid, "analysed": True, "rows": 1955, "columns": 1841}
            ],
            "findings": [
                {"code": "128477000", "display": item.name, "probability": item.probability, "state": item.state}
                for item in self.findings
            ],
            "not_assessed": [
                {"en": "pneumothorax", "fr": "pneumothorax"},
                {"en": "nodules and masses", "fr": "nodules et masses"},
                {"en": "fractures", "fr": "fractures"},
                {"en": "lines and tubes", "fr": "cathéters et sondes"},
            ],
            "key_image": sop,
            **self.result,
        }
        if heat:
            result["heatmap"] = {"sop_uid": sop, "png": "heatmap.png", "npy": "heatmap.npy"}
            blobs.put("results", f"{self.path}/heatmap.png", heatmap_png(heat))
        blobs.put("results", f"{self.path}/result.json", json.dumps(result).encode())


def real_file(name: str) -> bytes:
    """Return a file of `pydicom-data`."""
    return resources.files("data_store").joinpath("data", name).read_bytes()


def heatmap_png(center: tuple[float, float], columns: int = 1841, rows: int = 1955) -> bytes:
    """Return a heatmap as the AI container draws them, warmest at `center` (parts of width and height)."""
    y, x = (np.mgrid[0:14, 0:14] + 0.5) / 14
    heat = np.exp(-(((x - center[0]) / 0.13) ** 2 + ((y - center[1]) / 0.15) ** 2))
    return overlay_png(heat.astype(np.float32), rows, columns)


def patient(name: str, family: str, given: Iterable[str], birth_date: str, gender: str, number: str) -> Resource:
    """Return a Patient."""
    kind = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "MR"}]}
    return {
        "resourceType": "Patient",
        "id": name,
        "identifier": [{"type": kind, "system": PATIENT_SYSTEM, "value": number}],
        "name": [{"use": "official", "family": family, "given": list(given)}],
        "gender": gender,
        "birthDate": birth_date,
    }


def practitioner(name: str, role: str, **changes: Any) -> list[Resource]:
    """Return a Practitioner and the PractitionerRole with a SNOMED CT code."""
    return [
        {"resourceType": "Practitioner", "id": name, "name": [{"text": f"Dr. {name.title()}", "family": name.title()}]},
        {
            "resourceType": "PractitionerRole",
            "id": f"{name}-role",
            "active": True,
            "practitioner": {"reference": f"Practitioner/{name}", "display": f"Dr. {name.title()}"},
            "code": [{"coding": [{"system": SCT, "code": role}]}],
            **changes,
        },
    ]


def human_report(name: str, patient_id: str, study: MadeUpStudy | None, conclusion: str) -> Resource:
    """Return a radiologist's final report."""
    return {
        "resourceType": "DiagnosticReport",
        "id": name,
        "status": "final",
        "category": [{"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0074", "code": "RAD"}]}],
        "code": {"text": "CT abdomen with contrast"},
        "subject": {"reference": f"Patient/{patient_id}"},
        "effectiveDateTime": "2024-11-03",
        "issued": "2024-11-03T16:20:00+01:00",
        "resultsInterpreter": [{"display": "Dr. A. Lefèvre"}],
        "conclusion": conclusion,
        **({"imagingStudy": [{"reference": f"ImagingStudy/{study.id}"}]} if study else {}),
    }


def columns_of(name: str) -> int:
    """Return the width of a file's image."""
    return int(dcmread(io.BytesIO(real_file(name)), stop_before_pixels=True).Columns)
