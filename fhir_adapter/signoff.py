"""A person's acts on a report: sign, reject, amend (R6).

Nobody but a person sets ``final``. Each act is one transaction of the report, its Observations and a Provenance that
names the person, every entry under the version that the person saw: who meets a newer one is told so
(`PreconditionFailed`) and nothing is tried again by itself. What is signed is first handed to `keep`, which stores it
durably; only then is it written, so that a lost FHIR store can be restored with its signatures (`restore`).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from fhir_adapter import observation, report_document
from fhir_adapter.bundle import check, first, put_entry, reference, same, written_version
from fhir_adapter.client import FhirClient, Resource
from fhir_adapter.diagnostic_report import OPEN_STATUSES, REPORT_SYSTEM, is_open, narrative, with_document
from fhir_adapter.dicom_time import now_instant
from fhir_adapter.errors import FhirRetryable, PreconditionFailed
from fhir_adapter.examination import Examination
from fhir_adapter.findings import AnalysisResult, Finding, ModelInfo, State
from fhir_adapter.identity import resource_id
from fhir_adapter.severity import Severity, severity_of, severity_text, with_severity
from fhir_adapter.terminology import ASSEMBLER, AUTHOR, FINDING_STATES, INTERPRETATIONS, UPDATE, VERIFIER
from fhir_adapter.wording import phrase
from imaging_core.errors import Permanent

__all__ = ["Assessed", "Assessment", "Signed", "Signer", "amend", "reject", "restore", "sign"]

Keep = Callable[[Resource], None]
Write = Callable[[Sequence[Resource]], list[Resource]]
Assessed = Literal["present", "absent", "indeterminate"]
_SIGNED = ("final", "amended", "corrected", "appended")


@dataclass(frozen=True)
class Assessment:
    """What a person says of one finding.

    Parameters
    ----------
    state : {'present', 'absent', 'indeterminate'}
        Whether it is there.
    severity : {'mild', 'moderate', 'severe'}, optional
        Of one that is present; None: not said.
    """

    state: Assessed
    severity: Severity | None = None


@dataclass(frozen=True)
class Signer:
    """The person.

    Parameters
    ----------
    display : str
        Name, as the EHR says it.
    iss, fhir_user : str
        The EHR and its ``fhirUser``, for example ``Practitioner/123``.
    system, value : str
        An identifier that also means something elsewhere (NPI, RPPS ...); empty: none is known.
    local : bool
        Whether `fhir_user` is a resource of the imaging FHIR service itself.
    """

    display: str
    iss: str = ""
    fhir_user: str = ""
    system: str = ""
    value: str = ""
    local: bool = False

    def reference(self) -> Resource:
        """Return the Reference: literal on the own server, else logical by identifier, else by iss and fhirUser."""
        if self.local and self.fhir_user:
            return {"reference": self.fhir_user, "display": self.display}
        system, value = (self.system, self.value) if self.value else (self.iss, self.fhir_user)
        identifier = {**({"system": system} if system else {}), "value": value or self.display}
        return {"type": "Practitioner", "identifier": identifier, "display": self.display}


@dataclass(frozen=True)
class Signed:
    """What an act left.

    Parameters
    ----------
    report : Resource
        The DiagnosticReport as written.
    version_id : str
        Its new version.
    provenance : str
        ``Provenance/<id>``.
    """

    report: Resource
    version_id: str
    provenance: str


@dataclass
class _Opened:
    """A report and what belongs to it."""

    report: Resource
    observations: list[Resource] = field(default_factory=list)
    device: Resource | None = None
    media: Resource | None = None
    study: Resource | None = None
    patient: Resource | None = None


def sign(
    client: FhirClient,
    report_id: str,
    version_id: str,
    signer: Signer,
    keep: Keep,
    *,
    findings: Mapping[str, Assessed | Assessment] | None = None,
    conclusion: str = "",
    written_by: str = "",
    write: Write | None = None,
) -> Signed:
    """Sign a preliminary report as the person left it.

    Parameters
    ----------
    client : FhirClient
        The imaging FHIR service, with the app's own identity.
    report_id, version_id : str
        The version that the person saw.
    signer : Signer
        The person; that he has the right to sign was checked by the caller.
    keep : callable
        Stores the signed copy (a Bundle) durably; where it raises, nothing is signed.
    findings : mapping, optional
        Observation id to the state, or state and severity, that the person set; others stay as the model left them.
    conclusion : str
        The person's words; empty: findings in one line each.
    written_by : str
        Name of the app, where it writes with its own identity on behalf of the signer.
    write : callable, optional
        Sends the transaction with the signer's own token, where that may write; None: `client` does.

    Raises
    ------
    PreconditionFailed
        Somebody has changed the report since, or signed or rejected it.
    """
    opened = _open(client, report_id, version_id)
    if not is_open(opened.report):
        raise PreconditionFailed("the report is signed or rejected already")
    return _finish(client, opened, signer, keep, "final", findings or {}, conclusion, "", written_by, write)


def amend(
    client: FhirClient,
    report_id: str,
    version_id: str,
    signer: Signer,
    keep: Keep,
    reason: str,
    *,
    status: Literal["amended", "corrected"] = "amended",
    findings: Mapping[str, Assessed | Assessment] | None = None,
    conclusion: str = "",
    written_by: str = "",
    write: Write | None = None,
) -> Signed:
    """Change a signed report, with the reason."""
    if not reason.strip():
        raise Permanent("bad-field", "an amendment needs a reason")
    opened = _open(client, report_id, version_id)
    if opened.report.get("status") not in _SIGNED:
        raise PreconditionFailed("the report is not signed")
    return _finish(client, opened, signer, keep, status, findings or {}, conclusion, reason.strip(), written_by, write)


def reject(
    client: FhirClient,
    report_id: str,
    version_id: str,
    signer: Signer,
    keep: Keep,
    reason: str,
    *,
    written_by: str = "",
    write: Write | None = None,
) -> Signed:
    """Reject a preliminary report (poor image, wrong examination), with the reason."""
    if not reason.strip():
        raise Permanent("bad-field", "a rejection needs a reason")
    opened = _open(client, report_id, version_id)
    if not is_open(opened.report):
        raise PreconditionFailed("the report is signed or rejected already")
    language = str(opened.report.get("language") or "en")
    said = phrase("rejected", language, signer=signer.display, reason=reason.strip())
    return _finish(client, opened, signer, keep, "cancelled", {}, said, reason.strip(), written_by, write)


def restore(client: FhirClient, copy: Resource) -> bool:
    """Write a kept copy back, where the FHIR service has lost it (restored from an old backup).

    Returns
    -------
    bool
        Whether anything was written. A report that a person has signed later than this copy is left alone.
    """
    resources = [entry["resource"] for entry in copy["entry"]]
    held = client.read_many([reference(resource) for resource in resources])
    report, stored = resources[0], held[0]
    decided = stored is not None and not is_open(stored)
    if stored is not None and decided and str(stored.get("issued") or "") > str(report.get("issued") or ""):
        return False
    entries = [
        put_entry(resource, before)
        for resource, before in zip(resources, held, strict=True)
        if not same(resource, before)
    ]
    if entries:
        client.transaction(entries)
    return bool(entries)


def _open(client: FhirClient, report_id: str, version_id: str) -> _Opened:
    report = client.read("DiagnosticReport", report_id)
    if report is None:
        raise Permanent("not-found", "the report does not exist")
    if (report.get("meta") or {}).get("versionId") != version_id:
        raise PreconditionFailed("the report has changed since it was shown")
    opened = _Opened(report)
    wanted = [str(item["reference"]) for item in report.get("result") or [] if "reference" in item]
    wanted += [str(item["link"]["reference"]) for item in report.get("media") or []]
    wanted += [str(item["reference"]) for item in report.get("imagingStudy") or []]
    wanted += [str(report["subject"]["reference"])] if "reference" in report.get("subject", {}) else []
    for resource in client.read_many(wanted):
        if resource is None:
            continue
        kind = resource["resourceType"]
        if kind == "Observation":
            opened.observations.append(resource)
        elif kind in ("Media", "ImagingStudy", "Patient"):
            setattr(opened, {"Media": "media", "ImagingStudy": "study", "Patient": "patient"}[kind], resource)
    devices = {str((item.get("device") or {}).get("reference") or "") for item in opened.observations} - {""}
    if devices:
        opened.device = client.read_many(sorted(devices))[0]
    return opened


def _finish(
    client: FhirClient,
    opened: _Opened,
    signer: Signer,
    keep: Keep,
    status: str,
    findings: Mapping[str, Assessed | Assessment],
    conclusion: str,
    reason: str,
    written_by: str,
    write: Write | None,
) -> Signed:
    now = now_instant()
    language = str(opened.report.get("language") or "en")
    unknown = set(findings) - {item["id"] for item in opened.observations}
    if unknown:
        raise Permanent("bad-field", "a finding does not belong to this report")
    observations = [_observation(item, status, findings.get(item["id"])) for item in opened.observations]
    written = [item for item, before in zip(observations, opened.observations, strict=True) if item != before]
    stamp = phrase("signed", language, signer=signer.display, time=f"{now[:10]} {now[11:16]} UTC")
    result = _result(opened, observations, language)
    report = {**opened.report, "status": status, "issued": now, "conclusion": conclusion or _said(result, stamp)}
    report["text"] = {"status": "generated", "div": narrative(str(report["conclusion"]), language)}
    if status != "cancelled":
        report["resultsInterpreter"] = [signer.reference()]
        examination = Examination(opened.study, opened.patient)
        report = with_document(report, report_document.render(report, result, examination, stamp))
    present = [item for item in result.findings if item.state == "present"]
    report.pop("conclusionCode", None)
    if present and status != "cancelled":
        report["conclusionCode"] = [
            {
                "coding": [{"system": item.system, "code": item.code, "display": item.display}],
                "text": item.text(language),
            }
            for item in present
        ]
    act = _provenance(opened, [report, *written], signer, status, reason, written_by, now)
    made = [report, *written, act]
    check(made)
    keep({"resourceType": "Bundle", "type": "collection", "entry": [{"resource": item} for item in made]})
    before = {reference(item): item for item in (opened.report, *opened.observations)}
    try:
        answers = (write or client.transaction)([put_entry(item, before.get(reference(item))) for item in made])
    except FhirRetryable:
        # the answer got lost: whether the act was done is told by its Provenance, not by trying again
        stored_act = client.read("Provenance", act["id"])
        if stored_act is None:
            raise
        if (stored_act.get("recorded"), stored_act.get("agent")) != (act["recorded"], act["agent"]):
            raise PreconditionFailed("somebody else has acted on this version of the report") from None
        stored = client.read("DiagnosticReport", report["id"]) or report
        return Signed(stored, str(stored["meta"]["versionId"]), reference(act))
    tag = written_version(answers[0]) or str(
        (client.read("DiagnosticReport", report["id"]) or report)["meta"]["versionId"]
    )
    return Signed(report, tag, reference(act))


def _observation(before: Resource, status: str, said: Assessed | Assessment | None) -> Resource:
    """Return an Observation as the person left it; the model's probability stays, as what the model said."""
    open_ = before.get("status") in OPEN_STATUSES
    if said is None and not open_:
        return before
    after = {**before, "status": status}
    if said is not None:
        assessment = said if isinstance(said, Assessment) else Assessment(said, severity_of(before))
        state = assessment.state
        after = with_severity(after, assessment.severity if state == "present" else None)
        after.pop("dataAbsentReason", None)
        after["valueCodeableConcept"] = FINDING_STATES[state].concept()
        after["interpretation"] = [INTERPRETATIONS[state].concept()]
    return after


def _provenance(
    opened: _Opened, targets: list[Resource], signer: Signer, status: str, reason: str, written_by: str, now: str
) -> Resource:
    path = next(
        (str(item["value"]) for item in opened.report.get("identifier") or [] if item.get("system") == REPORT_SYSTEM),
        "",
    )
    version = str(opened.report["meta"]["versionId"])
    who = signer.reference()
    agents: list[dict[str, Any]] = [{"type": (VERIFIER if status == "final" else AUTHOR).concept(), "who": who}]
    if written_by:
        agents.append({"type": ASSEMBLER.concept(), "who": {"display": written_by}, "onBehalfOf": who})
    made: Resource = {
        "resourceType": "Provenance",
        "id": resource_id(path.partition("/")[0], f"signoff:{opened.report['id']}:{version}"),
        "target": [{"reference": reference(target)} for target in targets],
        "recorded": now,
        "activity": UPDATE.concept(),
        "agent": agents,
        "entity": [
            {
                "role": "revision",
                "what": {"reference": f"{reference(opened.report)}/_history/{version}", "display": "Before the act"},
            }
        ],
    }
    if reason:
        made["reason"] = [{"text": reason}]
    return made


def _result(opened: _Opened, observations: list[Resource], language: str) -> AnalysisResult:
    """Return the findings as the document shows them, read back from what is stored."""
    report, device = opened.report, opened.device or {}
    path = next((str(i["value"]) for i in report.get("identifier") or [] if i.get("system") == REPORT_SYSTEM), "//")
    title = str(first(device.get("deviceName")).get("name") or device.get("modelNumber") or "")
    version = str(first(device.get("version")).get("value") or "")
    summary = str(first(device.get("note")).get("text") or "")
    data = ((opened.media or {}).get("content") or {}).get("data") or ""
    try:
        picture = base64.b64decode(str(data), validate=True)
    except binascii.Error:
        picture = b""
    return AnalysisResult(
        study_uid=path.split("/")[0],
        task=path.split("/")[1],
        model=ModelInfo(title, version, title_en=title, title_fr=title, summary_en=summary, summary_fr=summary),
        findings=tuple(_finding(item, language) for item in observations if observation.stated(item)),
        language=language,
        site_name=str(first(report.get("performer")).get("display") or ""),
        key_image_picture=picture,
    )


def _finding(resource: Resource, language: str) -> Finding:
    system, code, state = observation.stated(resource) or ("", "", "not-assessed")
    numbers = {
        component["code"]["coding"][0]["code"]: component["valueQuantity"]["value"]
        for component in reversed(resource.get("component") or [])
        if "valueQuantity" in component and component["code"].get("coding")
    }
    shown: State = state if state in FINDING_STATES else "not-assessed"  # type: ignore[assignment]  # narrowed by the table
    display = str(resource["code"]["coding"][0].get("display") or "")
    text = str(resource["code"].get("text") or "")
    if severity := severity_of(resource):
        text = f"{text or display} ({severity_text(severity, language)})"
    probability, threshold = numbers.get("probability"), numbers.get("threshold")
    return Finding(code, display, probability, threshold, shown, system=system, text_en=text, text_fr=text)


def _said(result: AnalysisResult, stamp: str) -> str:
    language = result.language
    lines = [
        phrase("bare-line", language, finding=item.text(language), state=phrase(item.state, language))
        for item in result.findings
    ]
    model = phrase("model", language, title=result.model.name, version=result.model.version)
    return "\n".join([*lines, f"{stamp}.", f"{phrase('made-with', language)} {model}"])
