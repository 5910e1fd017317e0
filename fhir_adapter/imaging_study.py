"""ImagingStudy from the headers of a study's instances: the engine over `fhir_adapter.imaging_study_map`.

The result depends on the set of instances only, not on their order, nor on how they were split into uploads or how
often one was delivered.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

from fhir_adapter.dicom_json import Attribute, Header, uid
from fhir_adapter.identity import IMAGING_STUDY, resource_id
from fhir_adapter.imaging_study_map import INSTANCE_RULES, SERIES_RULES, SOURCES, STUDY_RULES, Context, Rule
from imaging_core.dicom.json_model import Budget, describe
from imaging_core.errors import Rejected
from imaging_core.sites import Site

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = ["accession_numbers", "build", "header_of", "header_of_file", "merge", "study_uid_of"]

Resource = dict[str, Any]

_TAGS = {source: int(source, 16) for source in sorted(SOURCES)}
_TAG_LIST = list(_TAGS.values())
_ELEMENTS, _NESTING = 50_000, 16
_LAST = 2_147_483_648
_TERMINAL = ("cancelled", "entered-in-error")
_PEOPLES = ("note", "text")


def build(
    headers: Sequence[Header],
    *,
    subject: str,
    site: Site,
    endpoint: str | None = None,
    trusted_hosts: Iterable[str] = (),
    encounter: str | None = None,
    based_on: Mapping[str, str] | None = None,
    source: str = "urn:imaging:intake",
) -> Resource:
    """Return the ImagingStudy of a study.

    Parameters
    ----------
    headers : sequence of Header
        DICOM JSON model of each instance, any order, repetitions allowed.
    subject : str
        ``Patient/<id>``.
    site : Site
        Gives time zone and identifier systems.
    endpoint : str, optional
        ``Endpoint/<id>`` of the site's DICOMweb service.
    trusted_hosts : iterable of str
        Hosts whose Retrieve URLs are taken over.
    encounter : str, optional
        ``Encounter/<id>``, where it is known to exist.
    based_on : mapping, optional
        Accession number to ``ServiceRequest/<id>``.
    source : str
        Names the intake (``meta.source``).

    Raises
    ------
    Rejected
        ``missing-uid`` where an instance lacks one of its UIDs, ``uid-mismatch`` where they are of several studies.
    """
    study_uid = study_uid_of(headers)
    hosts = frozenset(host.lower() for host in trusted_hosts)
    context = Context(site, hosts, "", based_on or {})
    series, instances = _series_of(headers)
    resource: Resource = {
        "resourceType": "ImagingStudy",
        "id": resource_id(study_uid, IMAGING_STUDY),
        "meta": {"source": source},
        "status": "available",
        "subject": {"reference": subject},
    }
    _apply(STUDY_RULES, context, list(instances.values()), resource)
    contained = _contain(resource)
    if encounter:
        resource["encounter"] = {"reference": encounter}
    built = []
    for series_uid, members in series.items():
        entry: Resource = {"uid": series_uid}
        held = [instances[sop_uid] for sop_uid in members]
        _apply(SERIES_RULES, Context(site, hosts, series_uid, context.based_on), held, entry)
        contained.update(_contain(entry))
        entry["instance"] = sorted((_instance(context, header) for header in held), key=_by_number)
        built.append(entry)
    built.sort(key=_by_number)
    if endpoint:
        resource["endpoint"] = [{"reference": endpoint}, *resource.get("endpoint", [])]
    if contained:
        resource["contained"] = [contained[key] for key in sorted(contained)]
    resource["series"] = built
    _count(resource)
    return resource


def merge(stored: Resource | None, built: Resource) -> Resource:
    """Return what to write over the stored ImagingStudy.

    Series and instances that only the stored one holds are kept: another worker may have seen more of the study. What
    people or the EHR have added (note, narrative, encounter, extensions, tags, a terminal status) stays. Encounter and
    literal ServiceRequest stay only as long as the study is of the same Patient.

    Parameters
    ----------
    stored : Resource or None
        As read; None: nothing there yet.
    built : Resource
        From `build`.
    """
    if stored is None:
        return built
    merged = {**built, "meta": _merged_meta(stored.get("meta") or {}, built["meta"])}
    # stay and order were found for the Patient that the study was of; where it is another's now, they aren't his
    same_patient = (stored.get("subject") or {}).get("reference") == built["subject"]["reference"]
    for key, value in stored.items():
        if key in _PEOPLES or key in ("extension", "modifierExtension", "language", "implicitRules"):
            merged[key] = value
        elif key == "encounter" and same_patient:
            merged.setdefault(key, value)
    if stored.get("status") in _TERMINAL:
        merged["status"] = stored["status"]
    if same_patient:
        _keep_literal_requests(stored, merged)
    merged["series"] = _merged_series(stored.get("series") or [], built["series"])
    _keep_contained(stored, merged)
    _count(merged)
    return merged


def study_uid_of(headers: Sequence[Header]) -> str:
    """Return the one StudyInstanceUID of the headers.

    Raises
    ------
    Rejected
        ``missing-uid`` or ``uid-mismatch``.
    """
    uids = {uid(header.get("0020000D")) for header in headers}
    if not uids or "" in uids:
        raise Rejected("missing-uid", "an instance has no valid StudyInstanceUID (0020,000D)")
    if len(uids) > 1:
        raise Rejected("uid-mismatch", "the instances belong to several studies")
    return uids.pop()


def header_of(dataset: Dataset) -> Header:
    """Return what registering reads of a dataset, in the DICOM JSON model.

    The model of a whole dataset takes ten times as long as reading the file; of these few attributes, a fraction.
    """
    return {source: dataset[tag].to_json_dict(None, 1 << 30) for source, tag in _TAGS.items() if tag in dataset}


def header_of_file(file: BinaryIO) -> Header:
    """Return what registering reads of a DICOM file, passing over everything else.

    Raises
    ------
    pydicom.errors.InvalidDicomError
        The file is none.
    Rejected
        ``nested-too-deep``, ``too-many-elements``.
    """
    from pydicom import dcmread

    return describe(dcmread(file, stop_before_pixels=True, specific_tags=_TAG_LIST), Budget(_ELEMENTS, _NESTING))


def accession_numbers(study: Resource) -> list[Mapping[str, Any]]:
    """Return a built ImagingStudy's accession identifiers: several where one examination fulfils several orders."""
    return [
        identifier
        for identifier in study.get("identifier", [])
        if any(coding.get("code") == "ACSN" for coding in identifier.get("type", {}).get("coding", []))
    ]


def _series_of(headers: Sequence[Header]) -> tuple[dict[str, list[str]], dict[str, Header]]:
    instances: dict[str, Header] = {}
    for header in headers:
        sop_uid = uid(header.get("00080018"))
        if not (sop_uid and uid(header.get("0020000E")) and uid(header.get("00080016"))):
            raise Rejected("missing-uid", "an instance has no valid SOPInstanceUID, SeriesInstanceUID or SOPClassUID")
        held = instances.get(sop_uid)
        if held is None or (held is not header and held != header and _canonical(header) < _canonical(held)):
            instances[sop_uid] = header
    series: dict[str, list[str]] = {}
    for sop_uid in sorted(instances):
        series.setdefault(uid(instances[sop_uid].get("0020000E")), []).append(sop_uid)
    return series, instances


def _apply(rules: Sequence[Rule], context: Context, headers: Sequence[Header], target: Resource) -> None:
    for rule in rules:
        value = _value(rule, context, headers)
        if value is None or value == []:
            continue
        present = target.get(rule.element)
        target[rule.element] = [*present, *value] if isinstance(present, list) else value


def _value(rule: Rule, context: Context, headers: Sequence[Header]) -> Any:
    found = _distinct(rule.sources, headers)
    if len(found) == 1:
        return rule.convert(context, found[0][0])
    values = [(value, count) for raw, count in found if (value := rule.convert(context, raw)) not in (None, [])]
    if not values:
        return None
    if rule.pick == "all":
        unique = {_canonical(item): item for value, _ in values for item in value}
        return [unique[key] for key in sorted(unique)]
    counts: dict[str, tuple[int, Any]] = {}
    for value, count in values:
        key = _canonical(value)
        counts[key] = (counts.get(key, (0, None))[0] + count, value)
    if rule.several is not None and len(counts) > 1:
        return rule.several([value for _, value in counts.values()])
    # the most frequent, then the smallest: no order of arrival decides
    return min(counts.items(), key=lambda entry: (-entry[1][0], entry[0]))[1][1]


def _distinct(sources: tuple[str, ...], headers: Sequence[Header]) -> list[tuple[tuple[Attribute, ...], int]]:
    """Return the different source attributes with the number of instances that have them; absent ones not counted."""
    columns = [[header.get(source) for header in headers] for source in sources]
    rows: list[tuple[Attribute, ...]] = list(zip(*columns, strict=True))
    # almost always all instances of a study say the same: that is found out at C speed
    same = rows.count(rows[0])
    if same == len(rows):
        return [(rows[0], same)]
    grouped: dict[str, tuple[tuple[Attribute, ...], int]] = {}
    for row in rows:
        key = _canonical(row)
        grouped[key] = (row, grouped.get(key, (row, 0))[1] + 1)
    return list(grouped.values())


def _instance(context: Context, header: Header) -> Resource:
    entry: Resource = {}
    for rule in INSTANCE_RULES:
        value = rule.convert(context, tuple(map(header.get, rule.sources)))
        if value is not None:
            entry[rule.element] = value
    return entry


def _contain(target: Resource) -> dict[str, Resource]:
    """Turn the Endpoints that the rules made into references, and return what is to be contained."""
    endpoints = target.get("endpoint")
    if not endpoints:
        return {}
    target["endpoint"] = [{"reference": f"#{endpoint['id']}"} for endpoint in endpoints]
    return {endpoint["id"]: endpoint for endpoint in endpoints}


def _merged_series(stored: Sequence[Resource], built: Sequence[Resource]) -> list[Resource]:
    merged = {entry["uid"]: entry for entry in built}
    for entry in stored:
        ours = merged.get(entry["uid"])
        if ours is None:
            merged[entry["uid"]] = entry
            continue
        known = {instance["uid"] for instance in ours["instance"]}
        further = [instance for instance in entry.get("instance") or [] if instance["uid"] not in known]
        if further:
            merged[entry["uid"]] = {**ours, "instance": sorted([*ours["instance"], *further], key=_by_number)}
    return sorted(merged.values(), key=_by_number)


def _keep_literal_requests(stored: Resource, merged: Resource) -> None:
    """Keep a literal reference to the ServiceRequest that was found before, though it was not looked for again."""
    literal = {
        _canonical(reference.get("identifier")): reference
        for reference in stored.get("basedOn") or []
        if "reference" in reference
    }
    if "basedOn" in merged:
        merged["basedOn"] = [
            literal.get(_canonical(reference.get("identifier")), reference)
            if "reference" not in reference
            else reference
            for reference in merged["basedOn"]
        ]


def _keep_contained(stored: Resource, merged: Resource) -> None:
    """Contain the Endpoints that kept series refer to."""
    wanted = {
        reference["reference"].removeprefix("#")
        for holder in (merged, *merged["series"])
        for reference in holder.get("endpoint") or []
        if str(reference.get("reference", "")).startswith("#")
    }
    held = {item["id"]: item for item in [*(stored.get("contained") or []), *(merged.get("contained") or [])]}
    merged.pop("contained", None)
    if kept := [held[key] for key in sorted(wanted & held.keys())]:
        merged["contained"] = kept


def _merged_meta(stored: Mapping[str, Any], built: Mapping[str, Any]) -> Resource:
    kept = {key: value for key, value in stored.items() if key in ("tag", "security", "profile")}
    return {**kept, **built}


def _count(resource: Resource) -> None:
    """Set what is computed from what is held: (0008,0061) and (0020,1206/1208/1209) are query-time attributes."""
    modalities: dict[str, Resource] = {}
    total = 0
    for entry in resource["series"]:
        modalities[entry["modality"]["code"]] = entry["modality"]
        entry["numberOfInstances"] = len(entry["instance"])
        total += len(entry["instance"])
    resource["modality"] = [modalities[code] for code in sorted(modalities)]
    resource["numberOfSeries"] = len(resource["series"])
    resource["numberOfInstances"] = total


def _by_number(entry: Mapping[str, Any]) -> tuple[int, str]:
    return entry.get("number", _LAST), entry["uid"]


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)
