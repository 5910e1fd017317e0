"""Publishing an analysis: DiagnosticReport, Observations, Media, Provenance and the model's Device (R1-R9).

The machine writes only to reports that it made and nobody has signed or rejected (R7). Publishing the same result
again writes nothing; another result updates the unsigned resources; after a signature, a new report follows, and only
if it says something else.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from fhir_adapter import device, diagnostic_report, media, observation, provenance, report_document
from fhir_adapter.bundle import check, put_entry, reference, same
from fhir_adapter.client import FhirClient, Resource
from fhir_adapter.dicom_time import now_instant
from fhir_adapter.errors import FhirRetryable, PreconditionFailed
from fhir_adapter.examination import Examination
from fhir_adapter.findings import (
    AnalysisResult,
    Finding,
    InputImage,
    ModelInfo,
    NotAnalysed,
    PerImage,
    statement_digest,
)
from fhir_adapter.identity import IMAGING_STUDY, media_role, provenance_role, resource_id
from imaging_core.errors import Retryable

__all__ = [
    "AnalysisResult",
    "Finding",
    "InputImage",
    "ModelInfo",
    "NotAnalysed",
    "PerImage",
    "Published",
    "bundle",
    "publish",
]

_TRIES = 5
_PROBED = 4
# the picture's and document's bytes may differ between two machines; what they show follows from what is compared
_NOT_COMPARED = {
    "DiagnosticReport": ("issued", "presentedForm.data"),
    "Media": ("content.data",),
    "Provenance": ("recorded",),
}


@dataclass(frozen=True)
class Published:
    """What became of a result.

    Parameters
    ----------
    resources : tuple of str
        ``Type/id`` of report, Observations, Media, Provenance and Device.
    revision : int
        Of the report.
    report_id : str or None
        Id of the DiagnosticReport; None where none was due.
    skipped_reason : str or None
        ``no-model``: no report is due; ``signed``: a signed or rejected report is there and this result says nothing
        new.
    written : tuple of str
        What was really written; empty where nothing had changed.
    report : Resource or None
        The report as it is now stored (without the server's meta where it was just written).
    """

    resources: tuple[str, ...] = ()
    revision: int = 0
    report_id: str | None = None
    skipped_reason: str | None = None
    written: tuple[str, ...] = ()
    report: Resource | None = field(default=None, repr=False)


@dataclass
class _Stored:
    """What the server holds about a study and task."""

    study: Resource
    patient: Resource | None = None
    device: Resource | None = None
    reports: list[Resource] = field(default_factory=list)
    parts: dict[str, Resource] = field(default_factory=dict)

    @property
    def revision(self) -> int:
        return max(len(self.reports) - 1, 0)

    @property
    def report(self) -> Resource | None:
        return self.reports[-1] if self.reports else None


def publish(
    client: FhirClient, result: AnalysisResult, *, before_write: Callable[[int], None] | None = None
) -> Published:
    """Write what an analysis found, so that any EHR can read it.

    Parameters
    ----------
    client : FhirClient
        The imaging FHIR service.
    result : AnalysisResult
        The analysis.
    before_write : callable, optional
        Called with the report's revision before anything is written: whoever keeps files at
        ``results/<study>/<task>/<revision>`` stores them then. May be called again with another revision.

    Raises
    ------
    Retryable
        ``study-not-registered``.
    FhirRetryable, FhirPermanent, PreconditionFailed
    """
    if result.no_model and not result.report_without_model:
        return Published(skipped_reason="no-model")
    failure: Retryable = PreconditionFailed("the report kept changing while it was written")
    for number in range(_TRIES):
        stored = _read(client, result)
        revision, follows, skip = _decide(stored, result)
        if skip:
            held = stored.report
            return Published((), stored.revision, held["id"] if held else None, skip, report=held)
        try:
            return _publish_revision(client, result, stored, revision, follows, before_write)
        except PreconditionFailed as error:
            failure = error
        except FhirRetryable as error:
            # the transaction may have gone through unseen, and somebody may have signed since: decide anew
            failure = error
            if error.retry_after > 5 or number == _TRIES - 1:
                raise
            time.sleep(error.retry_after or 0.2 * 2**number)
    raise failure


def bundle(
    result: AnalysisResult,
    *,
    study: Resource | None = None,
    patient: Resource | None = None,
    revision: int = 0,
    base_url: str = "https://fhir.invalid",
) -> Resource:
    """Return a result's resources as a Bundle of type collection (``Accept: application/fhir+json``).

    Parameters
    ----------
    study, patient : Resource, optional
        ImagingStudy and Patient, where they are registered.
    base_url : str
        Base of the entries' ``fullUrl``.
    """
    resources = _build(result, Examination(study, patient), revision, now_instant(), None)
    document = report_document.render(resources[0], result, Examination(study, patient))
    resources[0] = diagnostic_report.with_document(resources[0], document)
    entries = [
        {"fullUrl": f"{base_url}/{reference(resource)}", "resource": resource}
        for resource in [*resources, device.build(result.model)]
    ]
    return {"resourceType": "Bundle", "type": "collection", "entry": entries}


def _read(client: FhirClient, result: AnalysisResult) -> _Stored:
    """Read everything that the decision and the comparison need, in two calls."""
    study_url = f"ImagingStudy/{resource_id(result.study_uid, IMAGING_STUDY)}"
    device_url = f"Device/{device.build(result.model)['id']}"
    revisions = [
        f"DiagnosticReport/{diagnostic_report.report_id(result.study_uid, result.task, number)}"
        for number in range(_PROBED)
    ]
    study, held_device, *reports = client.read_many([study_url, device_url, *revisions])
    if study is None:
        raise Retryable("study-not-registered", "the study has no ImagingStudy yet")
    stored = _Stored(study, device=held_device, reports=[report for report in reports if report is not None])
    while len(stored.reports) >= _PROBED:
        number = len(stored.reports)
        further = client.read("DiagnosticReport", diagnostic_report.report_id(result.study_uid, result.task, number))
        if further is None:
            break
        stored.reports.append(further)
    wanted = _parts(result, stored)
    subject = str((study.get("subject") or {}).get("reference") or "")
    if subject.startswith("Patient/"):
        wanted.append(subject)
    for name, resource in zip(wanted, client.read_many(wanted), strict=True):
        if name == subject:
            stored.patient = resource
        elif resource is not None:
            stored.parts[name] = resource
    return stored


def _parts(result: AnalysisResult, stored: _Stored) -> list[str]:
    """Name what may belong to the newest report: by its references, and by the ids that this result would have."""
    number = stored.revision
    named = [f"Provenance/{resource_id(result.study_uid, provenance_role(result.task), number)}"]
    named.append(f"Media/{resource_id(result.study_uid, media_role(result.task), number)}")
    named.extend(f"Observation/{observation.observation_id(result, item, number)}" for item in result.findings)
    for item in (stored.report or {}).get("result") or []:
        name = str(item.get("reference") or "")
        if name.startswith("Observation/"):
            named.append(name)
    return list(dict.fromkeys(named))


def _decide(stored: _Stored, result: AnalysisResult) -> tuple[int, str | None, str | None]:
    """Return (revision to write, signed report that it follows, reason to write nothing) (R7)."""
    report = stored.report
    if report is None:
        return 0, None, None
    reported = {str(item.get("reference")) for item in report.get("result") or []}
    observations = [part for name, part in stored.parts.items() if name in reported]
    untouched = all(item.get("status") in diagnostic_report.OPEN_STATUSES for item in observations)
    machine = next((part for part in stored.parts.values() if part["resourceType"] == "Provenance"), None)
    if diagnostic_report.is_open(report) and untouched:
        follows = next(
            (
                str(entity["what"]["reference"])
                for entity in (machine or {}).get("entity") or []
                if entity.get("role") == "revision"
            ),
            None,
        )
        if follows is None and stored.revision > 0:
            follows = reference(stored.reports[-2])
        return stored.revision, follows, None
    said = result.statement()
    # what the machine said before, and what the signer left of it: either way it is no news
    left = [observation.stated(item) for item in observations]
    signed = statement_digest(result.task, [item for item in left if item])
    if said in (provenance.statement_of(machine), signed):
        return stored.revision, None, "signed"
    return stored.revision + 1, reference(report), None


def _build(
    result: AnalysisResult, examination: Examination, revision: int, now: str, follows: str | None
) -> list[Resource]:
    """Return report, Observations, Media and Provenance, the report first and without its document."""
    findings = [observation.build(result, finding, examination, revision) for finding in result.findings]
    picture = media.build(result, examination, revision)
    report = diagnostic_report.build(
        result,
        examination,
        [reference(item) for item in findings],
        reference(picture) if picture else None,
        revision,
        result.created or now,
    )
    made = [report, *findings, *([picture] if picture else [])]
    made.append(provenance.build(result, [reference(item) for item in made], revision, result.created or now, follows))
    return made


def _publish_revision(
    client: FhirClient,
    result: AnalysisResult,
    stored: _Stored,
    revision: int,
    follows: str | None,
    before_write: Callable[[int], None] | None,
) -> Published:
    examination = Examination(stored.study, stored.patient)
    made = _build(result, examination, revision, now_instant(), follows)
    held = {**stored.parts, **({reference(stored.report): stored.report} if stored.report else {})}
    if revision > stored.revision:
        held = {}
    changed = [item for item in made if not _same(item, held.get(reference(item)))]
    dropped = _dropped(held.values(), made)
    model = device.build(result.model)
    model_changed = not same(model, stored.device)
    published = Published(
        resources=(*(reference(item) for item in made), reference(model)),
        revision=revision,
        report_id=made[0]["id"],
        report=made[0] if changed and changed[0] is made[0] else held.get(reference(made[0])),
    )
    if not changed and not dropped and not model_changed:
        return published
    if changed and before_write is not None:
        before_write(revision)
    if changed and changed[0] is made[0]:
        document = report_document.render(made[0], result, examination)
        changed[0] = diagnostic_report.with_document(made[0], document)
    check([*changed, *([model] if model_changed else [])])
    if model_changed:
        client.update(model, if_match=(stored.device or {}).get("meta", {}).get("versionId"))
    if changed or dropped:
        entries = [put_entry(item, held.get(reference(item))) for item in [*changed, *dropped]]
        client.transaction(_guarded(entries, changed, made, held))
    return Published(
        published.resources,
        revision,
        published.report_id,
        None,
        tuple(reference(item) for item in [*changed, *dropped, *([model] if model_changed else [])]),
        published.report,
    )


def _guarded(
    entries: list[Resource], changed: Sequence[Resource], made: Sequence[Resource], held: dict[str, Resource]
) -> list[Resource]:
    """Make the transaction fail where somebody has signed since the report was read, even if the report stays as it is.

    Observations have versions of their own, so a signature that only touched the report would go unseen: the report is
    written too, unchanged, under its ``ifMatch``.
    """
    name = reference(made[0])
    if name in held and not any(reference(item) == name for item in changed):
        return [put_entry(held[name], held[name]), *entries]
    return entries


def _same(new: Resource, held: Resource | None) -> bool:
    return same(new, held, _NOT_COMPARED.get(new["resourceType"], ()))


def _dropped(held: Iterable[Resource], made: Sequence[Resource]) -> list[Resource]:
    """Return the Observations that the report no longer names, cancelled: another model looks for other findings."""
    kept = {reference(item) for item in made}
    return [
        {**item, "status": "cancelled"}
        for item in held
        if item["resourceType"] == "Observation" and reference(item) not in kept and item.get("status") != "cancelled"
    ]
