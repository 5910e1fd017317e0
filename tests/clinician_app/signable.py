"""A report as the pipeline leaves it: registered, in the ledger, its image stored, published and not reviewed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fhir_adapter.client import FhirClient
from fhir_adapter.findings import AnalysisResult
from fhir_adapter.register import Registered, ensure_study
from fhir_adapter.results import publish
from imaging_core.blobs import BlobStore
from imaging_core.database import Pool
from imaging_core.sites import Site
from tests.clinician_app.made_up_chart import CHEST, real_file
from tests.fhir_adapter.analyses import finding, result
from tests.fhir_adapter.headers import fresh_uid, instance

SITE = Site("Test hospital", "https://hospital.example/patient-numbers", "Europe/Paris", "en")


@dataclass
class Signable:
    """One patient with one report."""

    client: FhirClient
    header: dict[str, Any]
    patient: str
    report_id: str
    study_uid: str

    @property
    def report(self) -> dict[str, Any]:
        """The report as it is now."""
        found = self.client.read("DiagnosticReport", self.report_id)
        assert found
        return found

    @property
    def observation(self) -> dict[str, Any]:
        """Its first finding as it is now."""
        found = self.client.read(*self.report["result"][0]["reference"].split("/"))
        assert found
        return found

    @property
    def version(self) -> str:
        """The report's version."""
        return str(self.report["meta"]["versionId"])

    @property
    def page(self) -> str:
        """Path of the report's page in a launch."""
        return f"/reports/{self.report_id}"

    def form(self, act: str = "sign", **fields: str) -> dict[str, str]:
        """Return what a form that was just opened sends; `fields` replaces and adds."""
        found = self.observation
        codes = {"52101004": "present", "2667000": "absent", "82334004": "indeterminate"}
        state = codes[found["valueCodeableConcept"]["coding"][0]["code"]]
        return {"act": act, "version": self.version, f"seen.{found['id']}": state, **fields}

    def again(self, state: str, probability: float) -> None:
        """Let the machine say something else."""
        publish(self.client, self._result(state, probability))

    def _result(self, state: Any, probability: float) -> AnalysisResult:
        return result(self.header, finding(state, probability))


def signable(client: FhirClient, pool: Pool, blobs: BlobStore, *, state: str = "present") -> Signable:
    """Make a patient with an unreviewed report."""
    number = fresh_uid()[-12:]
    header = instance(PatientID=number, PatientName=f"Signable{number}^Ada", StudyDescription="Chest PA")
    registered = ensure_study(client, [header], SITE, "create")
    assert isinstance(registered, Registered)
    study, series, sop = (header[tag]["Value"][0] for tag in ("0020000D", "0020000E", "00080018"))
    with pool.connection() as connection:
        connection.execute(
            "INSERT INTO ledger.study (study_uid, site, version, analysed_version, registered_at, subject)"
            " VALUES (%s, 'Test hospital', 1, 1, now(), %s)",
            (study, registered.subject),
        )
    blobs.put("images", f"{study}/{series}/{sop}.dcm", real_file(CHEST))
    made = Signable(client, header, registered.subject.removeprefix("Patient/"), "", study)
    published = publish(client, made._result(state, 0.83 if state == "present" else 0.1))
    made.report_id = str(published.report_id)
    return made
