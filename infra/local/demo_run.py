"""Sends the demo images through the running stack, one after the other, and waits until each is readable over FHIR."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import psycopg
from psycopg.rows import dict_row

from fhir_adapter.client import FhirClient, Resource, client_from_settings
from imaging_core.blobs import BlobStore
from imaging_core.settings import Settings, load_settings
from infra.local.azurite import connection_string
from infra.local.demo_images import DemoImage, DemoPatient
from infra.local.postgres import database_url
from infra.local.stack import Stack

__all__ = ["DemoRun", "Result"]

_POLL_SECONDS = 0.05
_PATIENCE_SECONDS = 120.0

# the newest delivery of an instance, and how far its study has come
_PROGRESS = """
SELECT d.state AS outcome, coalesce(d.reason, d.hold_reason) AS reason, d.study_uid,
       i.registered, s.version, s.analysed_version, s.failed_at, s.last_error,
       (SELECT json_agg(json_build_object('state', a.state, 'report', a.report, 'reason', a.reason))
        FROM ledger.analysis a WHERE a.study_uid = d.study_uid) AS analyses
FROM ledger.delivery d
LEFT JOIN ledger.study s ON s.study_uid = d.study_uid
LEFT JOIN ledger.instance i ON i.sop_uid = d.sop_uid
WHERE d.sop_uid = %s AND d.received_at >= %s ORDER BY d.received_at DESC LIMIT 1
"""


@dataclass(frozen=True)
class Result:
    """What became of one image.

    Parameters
    ----------
    fine : bool
        It ended in a report that can be read over FHIR, or in a refusal with a reason.
    outcome, finding : str
        For the table.
    seconds : float
        From the upload's start until the report was read over FHIR.
    """

    image: DemoImage
    fine: bool
    outcome: str
    finding: str = ""
    seconds: float | None = None


class DemoRun:
    """A client of the running stack, with the developer tokens.

    Parameters
    ----------
    stack : Stack
        Whose addresses and tokens are used.
    cancelled : threading.Event
        Ends a wait early.
    """

    def __init__(self, stack: Stack, cancelled: threading.Event) -> None:
        credentials, ports = stack.credentials, stack.ports
        self._cancelled = cancelled
        self._settings: Settings = load_settings(
            fhir_base_url=stack.environment["FHIR_BASE_URL"],
            fhir_auth="bearer",
            fhir_token=credentials.fhir_token,
            storage_connection_string=connection_string(credentials, ports.blob, ports.queue),
        )
        self._assigner = stack.environment.get("SITE_ASSIGNER_SYSTEM") or stack.settings.site_assigner_system
        self._fhir: FhirClient = client_from_settings(self._settings)
        self._ledger = psycopg.connect(
            database_url(credentials, ports.postgres, "imaging_worker"), autocommit=True, row_factory=dict_row
        )
        self._http = httpx.Client(
            base_url=f"http://127.0.0.1:{ports.ingestion}/api",
            headers={"Authorization": f"Bearer {credentials.ingest_token}"},
            timeout=httpx.Timeout(120.0, connect=5.0),
            trust_env=False,
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()
        self._ledger.close()
        self._fhir.close()

    def register(self, patients: Iterable[DemoPatient]) -> int:
        """Put patients on file who are not yet; return how many were new."""
        new = 0
        for patient in patients:
            if any(self._fhir.search("Patient", {"identifier": f"{self._assigner}|{patient.number}"})):
                continue
            self._fhir.post_create(_patient(patient, self._assigner))
            new += 1
        return new

    def send(self, image: DemoImage) -> Result:
        """Send one image and follow it to its end."""
        # of an earlier run of the demo, there may be deliveries of the same image
        since = self._ledger.execute("SELECT now() AS since").fetchone()
        started = time.monotonic()
        try:
            sop_uid, refusal = self._deliver(image)
        except httpx.HTTPError as error:
            return Result(image, False, f"not sent: {type(error).__name__}")
        if refusal:
            return Result(image, True, f"refused: {refusal}")
        deadline = started + _PATIENCE_SECONDS
        row: Mapping[str, Any] | None = None
        while time.monotonic() < deadline:
            row = self._ledger.execute(_PROGRESS, (sop_uid, since["since"] if since else None)).fetchone()
            if row is not None and (result := self._ended(image, row, started)) is not None:
                return result
            if self._cancelled.wait(_POLL_SECONDS):
                return Result(image, False, "stopped")
        last = f" ({row['last_error']})" if row is not None and row["last_error"] else ""
        return Result(image, False, f"no end after {_PATIENCE_SECONDS:g} s{last}")

    def _deliver(self, image: DemoImage) -> tuple[str, str]:
        """Hand the image over; return its SOP Instance UID, and the code of a refusal."""
        if image.door == "blob drop":
            name = f"demo/{image.sop_uid}.dcm"
            BlobStore.from_settings(self._settings).put(container="incoming", name=name, data=image.data)
            return image.sop_uid, ""
        if image.door == "image upload":
            files = {"file": (image.title, image.data, "image/png")}
            answer = self._http.post("/images", data=dict(image.fields), files=files)
            document = _json(answer)
            if answer.status_code in (200, 201):
                return str(document["sop_uid"]), ""
            return "", str(document.get("code", answer.status_code))
        answer = self._http.post("/dicomweb/studies", content=image.data, headers={"Content-Type": "application/dicom"})
        # what failed is in the ledger with its reason; without an instance in the answer, nothing will come there
        return image.sop_uid, "" if answer.status_code in (200, 202, 409) else _refusal(answer)

    def _ended(self, image: DemoImage, row: Mapping[str, Any], started: float) -> Result | None:
        if row["outcome"] == "rejected":
            return Result(image, True, f"refused: {row['reason']}")
        if row["outcome"] in ("quarantined", "held"):
            return Result(image, False, f"{row['outcome']}: {row['reason']}")
        if row["failed_at"] is not None:
            return Result(image, False, f"failed: {row['last_error']}")
        if not row["registered"] or row["analysed_version"] < row["version"] or not row["analyses"]:
            return None
        analysis = min(row["analyses"], key=lambda item: str(item["state"]))
        if not analysis["report"]:
            seconds = time.monotonic() - started
            return Result(image, True, "refused: no model for this examination", seconds=seconds)
        report = self._fhir.read(*str(analysis["report"]).split("/", 1))
        if report is None:
            return None
        findings = [text for text in map(self._finding, report.get("result", [])) if text]
        seconds = time.monotonic() - started
        outcome = f"report ({report['status']})"
        if analysis["state"] == "not_analysed":
            outcome += f", not analysed: {analysis['reason']}"
        if row["outcome"] == "duplicate":
            outcome += ", sent before"
        return Result(image, True, outcome, "; ".join(findings), seconds)

    def _finding(self, reference: Mapping[str, Any]) -> str:
        observation = self._fhir.read(*str(reference["reference"]).split("/", 1))
        if observation is None:
            return ""
        name = _text(observation["code"])
        if "valueCodeableConcept" not in observation:
            return f"{name}: not assessed"
        # the first component is the probability (R2)
        value = next((item["valueQuantity"]["value"] for item in observation.get("component", [])), None)
        probability = f" {value:.0%}" if value is not None else ""
        return f"{name}: {_text(observation['valueCodeableConcept'])}{probability}"


def _patient(patient: DemoPatient, assigner: str) -> Resource:
    kind = {"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "MR"}
    return {
        "resourceType": "Patient",
        "identifier": [{"type": {"coding": [kind]}, "system": assigner, "value": patient.number}],
        "name": [{"use": "official", "family": patient.family, "given": [patient.given]}],
        "gender": patient.gender,
        "birthDate": patient.birth_date,
    }


def _text(concept: Mapping[str, Any]) -> str:
    return str(concept.get("text") or next((item.get("display", "") for item in concept.get("coding", [])), ""))


def _refusal(answer: httpx.Response) -> str:
    return str(_json(answer).get("code", answer.status_code))


def _json(answer: httpx.Response) -> dict[str, Any]:
    try:
        document = answer.json()
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}
