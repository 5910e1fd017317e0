"""The DICOM SR of a signed report: a new instance, VERIFIED, that refers to the one that it comes from (R6, R8).

What the machine sent is never altered: an SR that changes is another SR, with its predecessor named (PS3.3 C.17.2.4).
"""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

from pydicom import Dataset, dcmread
from pydicom.uid import generate_uid

from fhir_adapter import observation
from fhir_adapter.bundle import first
from fhir_adapter.client import FhirClient, Resource
from fhir_adapter.diagnostic_report import REPORT_SYSTEM
from fhir_adapter.identity import dicom_uid
from fhir_adapter.signoff import Signed, Signer
from fhir_adapter.terminology import FINDING_STATES, Code, scheme_designator
from imaging_core.blobs import BlobMissing, BlobStore
from imaging_core.errors import Permanent

__all__ = ["blob_name", "build", "store", "store_from_copy"]

_CONTAINER = "results"
_STATUSES = ("final", "amended", "corrected")
_FINDING = "121071"
_TRACKING = "112039"
_CONCLUSION = Code("http://dicom.nema.org/resources/ontology/DCM", "121077", "Conclusion", "DICOM PS3.16 CID 7001")


def blob_name(report: Resource, version_id: str) -> str | None:
    """Return the name, in container ``results``, of the verified SR of a version of a report; None: it has none."""
    path = next((str(i["value"]) for i in report.get("identifier") or [] if i.get("system") == REPORT_SYSTEM), "")
    if report.get("status") not in _STATUSES or not path:
        return None
    return f"{path}/sr.signed.{_number(version_id)}.dcm"


def store(client: FhirClient, blobs: BlobStore, signed: Signed, signer: Signer) -> str | None:
    """Write the verified SR of an act of `fhir_adapter.signoff` beside the unverified one; return the blob's name.

    One that is there stays as it is. None where the report has no SR (nothing was assessed, or it is rejected).

    Parameters
    ----------
    client : FhirClient
        Reads the report's Observations.
    blobs : BlobStore
        Container ``results``: ``<study>/<task>/<revision>/sr.signed.<version>.dcm``.
    """
    names = [str(item["reference"]) for item in signed.report.get("result") or [] if "reference" in item]
    return _store(blobs, signed, signer, lambda: [item for item in client.read_many(names) if item is not None])


def store_from_copy(blobs: BlobStore, signed_copy: Resource, version_id: str) -> str | None:
    """Write the verified SR of what was signed once, from the copy that the act left; return as `store` does.

    The copy holds every Observation that the act changed; the others are as in the predecessor. So the SR says what was
    signed then, whatever became of the report since.

    Parameters
    ----------
    signed_copy : Resource
        The Bundle in container ``signoffs``.
    version_id : str
        The report's version that the act made.
    """
    report, *observations, act = [entry["resource"] for entry in signed_copy["entry"]]
    who = first(act.get("agent")).get("who") or {}
    identifier = who.get("identifier") or {}
    signer = Signer(str(who.get("display") or identifier.get("value") or ""), str(identifier.get("system") or ""))
    return _store(blobs, Signed(report, version_id, f"Provenance/{act['id']}"), signer, lambda: observations)


def _store(
    blobs: BlobStore, signed: Signed, signer: Signer, observations: Callable[[], Sequence[Resource]]
) -> str | None:
    name = blob_name(signed.report, signed.version_id)
    if name is None:
        return None
    path = name.rpartition("/")[0]
    earlier = sorted(
        (int(number), info.name)
        for info in blobs.list(_CONTAINER, f"{path}/sr.signed.")
        if (number := info.name.rpartition("/")[2].split(".")[2]).isdigit()
    )
    before = [found for number, found in earlier if number < _number(signed.version_id)]
    try:
        document = blobs.get(_CONTAINER, before[-1] if before else f"{path}/sr.dcm")
    except BlobMissing:
        return None
    # what was signed is never altered
    blobs.put_new(_CONTAINER, name, build(document, signed, signer, observations()), content_type="application/dicom")
    return name


def build(document: bytes, signed: Signed, signer: Signer, observations: Sequence[Resource]) -> bytes:
    """Return the verified SR: the predecessor's content with the findings as the signer left them.

    Parameters
    ----------
    document : bytes
        The SR that the machine made, or that of an earlier signature.
    signed : Signed
        What the act left: report and version.
    signer : Signer
        The verifying observer.
    observations : sequence of Resource
        The report's Observations as they are now.

    Raises
    ------
    Permanent
        ``bad-field``: the report is not signed.
    """
    report = signed.report
    if report.get("status") not in _STATUSES:
        raise Permanent("bad-field", "only a signed report has a verified document")
    before = dcmread(io.BytesIO(document))
    made = copy.deepcopy(before)
    number = _number(signed.version_id)
    made.SOPInstanceUID = dicom_uid(str(before.StudyInstanceUID), f"sr-signed:{report['id']}:{number}")
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    made.InstanceNumber = 1000 + number
    at = _at(report, before)
    made.ContentDate = made.InstanceCreationDate = at.strftime("%Y%m%d")
    made.ContentTime = made.InstanceCreationTime = at.strftime("%H%M%S.%f")
    made.CompletionFlag, made.VerificationFlag, made.PreliminaryFlag = "COMPLETE", "VERIFIED", "FINAL"
    made.VerifyingObserverSequence = [_observer(report, signer, at)]
    made.PredecessorDocumentsSequence = [_reference(before)]
    for item in made.get("ContributingEquipmentSequence") or []:
        item.ContributionDescription = str(report.get("status"))
    states = {name: stated for item in observations if (name := _name(item)) and (stated := observation.stated(item))}
    for group in _groups(made):
        _restate(group, states)
    _conclude(made, str(report.get("conclusion") or ""))
    out = io.BytesIO()
    made.save_as(out, enforce_file_format=True)
    return out.getvalue()


def _number(version_id: str) -> int:
    """Return a version as a number; servers whose versions are no numbers get one that stands for it."""
    return int(version_id) if version_id.isdigit() else int(generate_uid(None, [version_id])[-9:])


def _at(report: Resource, document: Dataset) -> datetime:
    at = datetime.fromisoformat(str(report["issued"]))
    offset = str(document.get("TimezoneOffsetFromUTC") or "")
    return at.astimezone(datetime.strptime(offset, "%z").tzinfo if offset else UTC)


def _observer(report: Resource, signer: Signer, at: datetime) -> Dataset:
    item = Dataset()
    item.VerifyingObserverName = _plain(signer.display)
    item.VerifyingObserverIdentificationCodeSequence = []
    organisation = str(first(report.get("performer")).get("display") or signer.iss)
    item.VerifyingOrganization = _plain(organisation) or "unknown"
    item.VerificationDateTime = at.strftime("%Y%m%d%H%M%S.%f%z")
    return item


def _plain(value: str) -> str:
    for char in "\\^=":
        value = value.replace(char, " ")
    return value[:64]


def _reference(document: Dataset) -> Dataset:
    instance, series, study = Dataset(), Dataset(), Dataset()
    instance.ReferencedSOPClassUID = document.SOPClassUID
    instance.ReferencedSOPInstanceUID = document.SOPInstanceUID
    series.SeriesInstanceUID, series.ReferencedSOPSequence = document.SeriesInstanceUID, [instance]
    study.StudyInstanceUID, study.ReferencedSeriesSequence = document.StudyInstanceUID, [series]
    return study


def _name(resource: Resource) -> str:
    return next(
        (
            str(i["value"])
            for i in resource.get("identifier") or []
            if i.get("system") == observation.OBSERVATION_SYSTEM
        ),
        "",
    )


def _groups(node: Dataset) -> list[Dataset]:
    """Return the measurement groups (PS3.16 TID 1501) of a document."""
    found = []
    for item in node.get("ContentSequence") or []:
        if _template(item) == "1501":
            found.append(item)
        else:
            found.extend(_groups(item))
    return found


def _template(item: Dataset) -> str:
    sequence = item.get("ContentTemplateSequence")
    return str(sequence[0].TemplateIdentifier) if sequence else ""


def _concept_name(item: Dataset) -> str:
    sequence = item.get("ConceptNameCodeSequence")
    return str(sequence[0].CodeValue) if sequence else ""


def _restate(group: Dataset, states: Mapping[str, tuple[str, str, str]]) -> None:
    """Set the group's evaluation to what its Observation says now; the model's probability stays what it said."""
    tracking = next((str(item.TextValue) for item in group.ContentSequence if _concept_name(item) == _TRACKING), "")
    stated = states.get(tracking)
    if stated is None or stated[2] not in FINDING_STATES:
        return
    state = FINDING_STATES[stated[2]]
    for item in group.ContentSequence:
        if item.ValueType == "CODE" and _concept_name(item) == stated[1]:
            item.ConceptCodeSequence = [_code(state)]


def _conclude(document: Dataset, words: str) -> None:
    """Put the signer's conclusion in, in place of an earlier one (TID 1500 may be extended)."""
    kept = [item for item in document.ContentSequence if _concept_name(item) != _CONCLUSION.code]
    if words:
        item = Dataset()
        item.RelationshipType, item.ValueType = "CONTAINS", "TEXT"
        item.ConceptNameCodeSequence = [_code(_CONCLUSION)]
        item.TextValue = words
        kept.append(item)
    document.ContentSequence = kept


def _code(code: Code) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator = code.code, scheme_designator(code.system)
    item.CodeMeaning = code.display[:64]
    return item
