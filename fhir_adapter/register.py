"""Registering a study: match its Patient, build its ImagingStudy, write what differs in one transaction (I2, I3).

Round trips for one study, of 1 or of 1,000 instances: the Patient search, one call that reads everything else that is
needed, and one transaction. Nothing is written where nothing would change. The caller holds a lock per study, and
gives a lock per patient where several studies may make the same new Patient at once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from urllib.parse import quote

from fhir_adapter import endpoint as endpoint_resource
from fhir_adapter import imaging_study
from fhir_adapter.assigner import Policy, admission_system
from fhir_adapter.bundle import check, put_entry, reference, same, written_version
from fhir_adapter.client import FhirClient, Resource
from fhir_adapter.dicom_json import Header, text
from fhir_adapter.errors import FhirPermanent, FhirRetryable, PreconditionFailed
from fhir_adapter.patient import (
    HoldReason,
    PatientMatch,
    build_decided,
    identity_of,
    match_made,
    match_patient,
    survivor,
    token,
)
from imaging_core.sites import Site

__all__ = ["Hold", "Registered", "ensure_study"]

_TRIES = 5
_MOST_ORDERS = 10


@dataclass(frozen=True)
class Registered:
    """A study that the FHIR service now holds.

    Parameters
    ----------
    imaging_study_id : str
        Id of the ImagingStudy.
    subject : str
        ``Patient/<id>``.
    version_id : str
        Version of the ImagingStudy as stored.
    written : tuple of str
        ``Type/id`` of what was written; empty where nothing had changed.
    created_patient : bool
        Whether the Patient was made now.
    """

    imaging_study_id: str
    subject: str
    version_id: str
    written: tuple[str, ...] = ()
    created_patient: bool = False


@dataclass(frozen=True)
class Hold:
    """A study that waits for a person (P4).

    Parameters
    ----------
    reason : str
        A code of `imaging_core.errors`.
    """

    reason: HoldReason


@dataclass(frozen=True)
class _Found:
    """What the server holds about the study."""

    study: Resource | None = None
    patient: Resource | None = None
    endpoint: Resource | None = None
    requests: dict[str, str] = field(default_factory=dict)
    encounter: str | None = None


def ensure_study(
    client: FhirClient,
    headers: Sequence[Header],
    site: Site,
    policy: Policy,
    *,
    endpoint_address: str = "",
    trusted_hosts: Sequence[str] = (),
    source: str = "urn:imaging:intake",
    subject: str | None = None,
    make_patient: bool = False,
    patient_lock: Callable[[str], AbstractContextManager[object]] | None = None,
) -> Registered | Hold:
    """Bring the FHIR service to hold this study, or say why a person has to decide first.

    Parameters
    ----------
    client : FhirClient
        The imaging FHIR service.
    headers : sequence of Header
        DICOM JSON model of **all** instances of the study that are held, any order.
    site : Site
        The sending site.
    policy : {'create', 'hold'}
        Setting PATIENT_MATCH.
    endpoint_address : str
        DICOMweb base URL of the site; empty: no Endpoint is written.
    trusted_hosts : sequence of str
        Setting TRUSTED_RETRIEVE_HOSTS.
    source : str
        Names the intake.
    subject : str, optional
        ``Patient/<id>`` that an admin chose when he resolved a hold; no matching then. After a merge the surviving
        record is taken.
    make_patient : bool
        An admin resolved a hold with "create": where matching ends in a hold, the study gets a Patient of its own.
    patient_lock : callable, optional
        Gives a context manager for a key; held while a new Patient is made.

    Raises
    ------
    Rejected
        The headers can't make one study (``missing-uid``, ``uid-mismatch``).
    FhirRetryable, FhirPermanent, PreconditionFailed
    """
    address = endpoint_resource.build(endpoint_address) if endpoint_address else None
    lock: AbstractContextManager[object] = contextlib.nullcontext()
    key, _, _ = identity_of(headers, policy, site)
    if patient_lock is not None and key is not None and subject is None:
        lock = patient_lock(key.search_value())
    failure: Exception = PreconditionFailed("the ImagingStudy kept changing while it was written")
    with lock:
        for _ in range(_TRIES):
            match = _match(client, headers, policy, site, subject, make_patient)
            if match.subject is None:
                return Hold(match.hold or "patient-not-found")
            found = _look_up(client, _wanted(headers, match, site, address))
            if found.patient is not None:
                match = _on_file(client, found.patient, headers, policy, site, make_patient)
                if match.subject is None:
                    return Hold(match.hold or "patient-mismatch")
                found = _look_up(client, _wanted(headers, match, site, address))
            decided = subject is not None or make_patient
            if not decided and (reason := _other_subject(client, found.study, match)):
                return Hold(reason)
            built = imaging_study.build(
                headers,
                subject=str(match.subject),
                site=site,
                endpoint=reference(address) if address else None,
                trusted_hosts=trusted_hosts,
                encounter=found.encounter,
                based_on=found.requests,
                source=source,
            )
            try:
                return _write(client, match, built, address, found)
            except PreconditionFailed as error:
                failure = error
            except FhirRetryable as error:
                # the transaction may have gone through unseen: look again before anything is written again
                failure = error
                if error.retry_after:
                    raise
    raise failure


def _match(
    client: FhirClient,
    headers: Sequence[Header],
    policy: Policy,
    site: Site,
    subject: str | None,
    make_patient: bool,
) -> PatientMatch:
    """Find the study's Patient: the one that a person chose, the one that a person had made, else by the header."""
    if subject is not None:
        chosen = client.read("Patient", subject.rpartition("/")[2])
        return PatientMatch(linked=f"Patient/{survivor(client, chosen)['id']}" if chosen else subject)
    if not make_patient:
        return match_patient(client, headers, policy, site)
    made = build_decided(headers, text(headers[0].get("0020000D")))
    stored = client.read("Patient", made["id"])
    if stored is not None:
        return PatientMatch(linked=f"Patient/{survivor(client, stored)['id']}")
    match = match_patient(client, headers, "create", site)
    return match if match.subject is not None else PatientMatch(created=made)


def _on_file(
    client: FhirClient, stored: Resource, headers: Sequence[Header], policy: Policy, site: Site, make_patient: bool
) -> PatientMatch:
    """Decide anew where the Patient that would be made is on the server, though the search did not find him (P5)."""
    if not make_patient:
        return match_made(client, stored, headers, policy, site)
    made = build_decided(headers, text(headers[0].get("0020000D")))
    if stored["id"] == made["id"]:
        return PatientMatch(linked=f"Patient/{survivor(client, stored)['id']}")
    match = match_made(client, stored, headers, "create", site)
    return match if match.subject is not None else PatientMatch(created=made)


def _write(
    client: FhirClient, match: PatientMatch, built: Resource, address: Resource | None, found: _Found
) -> Registered:
    study = imaging_study.merge(found.study, built)
    wanted: list[tuple[Resource, Resource | None]] = []
    if match.created is not None:
        wanted.append((match.created, None))
    if address is not None and not same(address, found.endpoint, ("name",)):
        wanted.append((address, found.endpoint))
    if not same(study, found.study):
        wanted.append((study, found.study))
    version = str(((found.study or {}).get("meta") or {}).get("versionId") or "")
    if wanted:
        check(resource for resource, _ in wanted)
        answers = client.transaction([put_entry(resource, stored) for resource, stored in wanted])
        if wanted[-1][0] is study:
            version = written_version(answers[-1]) or version
    return Registered(
        imaging_study_id=study["id"],
        subject=study["subject"]["reference"],
        version_id=version,
        written=tuple(reference(resource) for resource, _ in wanted),
        created_patient=match.created is not None,
    )


@dataclass(frozen=True)
class _Number:
    """An accession or admission number to be looked for; any system where its own is not known."""

    system: str | None
    value: str

    @property
    def token(self) -> str:
        return token(self.system, self.value)

    def carried_by(self, resource: Resource) -> bool:
        return any(
            item.get("value") == self.value and self.system in (None, item.get("system"))
            for item in resource.get("identifier") or []
        )


@dataclass(frozen=True)
class _Wanted:
    """What has to be known before the study can be written."""

    study: Resource
    patient: Resource | None
    address: Resource | None
    accessions: tuple[_Number, ...]
    admission: _Number | None

    @property
    def numbers(self) -> tuple[_Number, ...]:
        return (*self.accessions, self.admission) if self.admission else self.accessions

    @property
    def reads(self) -> list[str]:
        return [reference(item) for item in (self.study, self.address, self.patient) if item]


def _wanted(headers: Sequence[Header], match: PatientMatch, site: Site, address: Resource | None) -> _Wanted:
    study = imaging_study.build(headers, subject=str(match.subject), site=site)
    held = [_Number(item.get("system"), item["value"]) for item in imaging_study.accession_numbers(study)]
    admission = next(
        (
            _Number(admission_system(header.get("00380014")), value)
            for header in headers
            if (value := text(header.get("00380010")))
        ),
        None,
    )
    # where two assigners gave the same number, which order is meant is not told by the number
    values = [item.value for item in held]
    clear = tuple(item for item in held if values.count(item.value) == 1)
    return _Wanted(study, match.created, address, clear[:_MOST_ORDERS], admission)


def _look_up(client: FhirClient, wanted: _Wanted) -> _Found:
    """Read the stored ImagingStudy and Endpoint, the request of the accession and the encounter, in one call.

    And the Patient that is to be made, for he may be there: a search by number does not find him where a merge or a
    person has taken the number from him.

    Where the server searches several types at once, identifiers travel in a form; elsewhere in a batch, whose entries
    are in the body too. No URL, which somebody may log, ever holds one.
    """
    if wanted.numbers and wanted.patient is None and client.searches_system:
        try:
            return _sorted_out(_system_search(client, wanted), wanted)
        except FhirPermanent:
            # it says that it can, and refuses this one: the batch serves as well
            pass
    urls = list(wanted.reads)
    urls += [f"ServiceRequest?identifier={quote(item.token, safe='')}&_count=2" for item in wanted.accessions]
    if wanted.admission:
        urls.append(f"Encounter?identifier={quote(wanted.admission.token, safe='')}&_count=2")
    return _sorted_out([resource for entries in client.get_many(urls) for resource in entries], wanted)


def _system_search(client: FhirClient, wanted: _Wanted) -> list[Resource]:
    """Search ImagingStudy, ServiceRequest and Encounter at once: they share the parameter ``identifier``."""
    uid = next(item["value"] for item in wanted.study["identifier"] if item.get("system") == "urn:dicom:uid")
    tokens = [token("urn:dicom:uid", uid), *(item.token for item in wanted.numbers)]
    form = {"_type": "ImagingStudy,ServiceRequest,Encounter", "identifier": ",".join(tokens)}
    found = list(client.search("", form))
    if wanted.address is not None:
        held = client.read("Endpoint", wanted.address["id"])
        found.extend([held] if held else [])
    return found


def _sorted_out(resources: Sequence[Resource], wanted: _Wanted) -> _Found:
    """Keep what is ours: study and Endpoint by id, request and encounter only where exactly one is the patient's."""
    subject = wanted.study["subject"]["reference"]
    by_type: dict[str, list[Resource]] = {}
    for resource in resources:
        by_type.setdefault(resource["resourceType"], []).append(resource)
    requests = {item.value: _only(by_type.get("ServiceRequest", []), item, subject) for item in wanted.accessions}
    return _Found(
        study=next((item for item in by_type.get("ImagingStudy", []) if item["id"] == wanted.study["id"]), None),
        patient=next(iter(by_type.get("Patient", [])), None),
        endpoint=next(iter(by_type.get("Endpoint", [])), None),
        requests={value: request for value, request in requests.items() if request},
        encounter=_only(by_type.get("Encounter", []), wanted.admission, subject) if wanted.admission else None,
    )


def _only(resources: Sequence[Resource], number: _Number, subject: str) -> str | None:
    # searched for all at once, one may carry another one's number
    found = {reference(item): item for item in resources if number.carried_by(item)}
    if len(found) != 1:
        return None
    name, resource = found.popitem()
    # an order or a stay of somebody else is no link, whatever its number
    return name if (resource.get("subject") or {}).get("reference") == subject else None


def _other_subject(client: FhirClient, stored: Resource | None, match: PatientMatch) -> HoldReason | None:
    """Refuse to move a stored study to another Patient, unless a merge made him the survivor (P4, P6)."""
    held = str(((stored or {}).get("subject") or {}).get("reference") or "")
    if not held or held == match.subject:
        return None
    before = client.read("Patient", held.rpartition("/")[2])
    if before is not None and f"Patient/{survivor(client, before)['id']}" == match.subject:
        return None
    return "patient-conflict"
