"""ImagingStudy from DICOM, as a table: element, source attributes, converter, where the standards say so (M1-M30).

`fhir_adapter.imaging_study` is the engine that reads this table. A converter gets the source attributes of one
instance (in the order of `Rule.sources`, None where absent) and a `Context`; it returns the element's value, or None
for "nothing to say".
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

from fhir_adapter.assigner import accession_system
from fhir_adapter.coded import anatomic_region, body_part, code_text, concept, persons
from fhir_adapter.dicom_json import Attribute, first_item, items, number, text, texts, uid
from fhir_adapter.dicom_time import fhir_date_time
from fhir_adapter.terminology import ACCESSION, DCM, LATERALITY, SCT, V2_0203, WADO_RS
from imaging_core.sites import Site

__all__ = ["INSTANCE_RULES", "SERIES_RULES", "SOURCES", "STUDY_RULES", "Context", "Rule", "retrieve_endpoint"]


@dataclass(frozen=True)
class Context:
    """What a converter may need besides the header.

    Parameters
    ----------
    site : Site
        Time zone and identifier systems.
    trusted_hosts : frozenset of str
        Hosts whose retrieve URLs are taken over (setting TRUSTED_RETRIEVE_HOSTS).
    series_uid : str
        The series whose rules are applied; empty at the level of the study.
    based_on : mapping
        Accession number to ``ServiceRequest/<id>``, where exactly one exists.
    """

    site: Site
    trusted_hosts: frozenset[str] = frozenset()
    series_uid: str = ""
    based_on: Mapping[str, str] = field(default_factory=dict)


Converter = Callable[[Context, tuple[Attribute, ...]], Any]


@dataclass(frozen=True)
class Rule:
    """One row of the table.

    Parameters
    ----------
    item : str
        Number in the requirements.
    element : str
        R4 element, below the level that the table is for.
    sources : tuple of str
        DICOM tags.
    convert : Converter
        Attributes to value; a list for a repeating element.
    reference : str
        Where the attribute is defined.
    pick : {'one', 'all'}
        Which value counts where instances differ: the most frequent one (the smaller where two are equally frequent),
        or all of them.
    several : callable, optional
        What to say where instances differ and neither value alone would be true of all.
    """

    item: str
    element: str
    sources: tuple[str, ...]
    convert: Converter
    reference: str
    pick: Literal["one", "all"] = "one"
    several: Callable[[Sequence[Any]], Any] | None = None


def _text(_: Context, values: tuple[Attribute, ...]) -> str | None:
    return text(values[0]) or None


def _number(_: Context, values: tuple[Attribute, ...]) -> int | None:
    return number(values[0])


def _date_time(context: Context, values: tuple[Attribute, ...]) -> str | None:
    day, time, offset = (text(value) for value in values)
    return fhir_date_time(day, time, offset, context.site.time_zone)


def _study_uid(_: Context, values: tuple[Attribute, ...]) -> list[dict[str, Any]]:
    return [{"use": "official", "system": "urn:dicom:uid", "value": f"urn:oid:{uid(values[0])}"}]


def _accession(context: Context, values: tuple[Attribute, ...]) -> dict[str, Any] | None:
    number_ = text(values[0])
    if not number_:
        return None
    system = accession_system(values[1], context.site)
    return {
        "use": "usual",
        "type": ACCESSION.concept(),
        **({"system": system} if system else {}),
        "value": number_,
    }


def _accession_identifier(context: Context, values: tuple[Attribute, ...]) -> list[dict[str, Any]] | None:
    identifier = _accession(context, values)
    return [identifier] if identifier else None


def _based_on(context: Context, values: tuple[Attribute, ...]) -> list[dict[str, Any]] | None:
    identifier = _accession(context, values)
    if identifier is None:
        return None
    literal = context.based_on.get(identifier["value"])
    return [{**({"reference": literal} if literal else {}), "type": "ServiceRequest", "identifier": identifier}]


def _study_id(_: Context, values: tuple[Attribute, ...]) -> list[dict[str, Any]] | None:
    # equipment numbers its studies 1, 2, 3: without a system on purpose, for it identifies nothing by itself
    value = text(values[0])
    return [{"use": "secondary", "type": {"text": "Study ID"}, "value": value}] if value else None


def _one_person(_: Context, values: tuple[Attribute, ...]) -> dict[str, Any] | None:
    return next(iter(persons(values[0], values[1])), None)


def _persons(_: Context, values: tuple[Attribute, ...]) -> list[dict[str, Any]]:
    return persons(values[0], values[1])


def _concepts(_: Context, values: tuple[Attribute, ...]) -> list[dict[str, Any]]:
    return [found for item in items(values[0]) if (found := concept(item))]


def _location(_: Context, values: tuple[Attribute, ...]) -> dict[str, Any] | None:
    name = text(values[0]) or text(values[1])
    return {"type": "Location", "display": name} if name else None


def _reasons(_: Context, values: tuple[Attribute, ...]) -> list[dict[str, Any]]:
    """Reason for the requested procedure, which real headers hold in Request Attributes Sequence (0040,0275)."""
    reason, codes, requests = values
    found = [item for item in (concept(entry) for entry in items(codes)) if item]
    if (said := text(reason)) and not found:
        found.append({"text": said})
    for request in items(requests):
        coded = [item for item in (concept(entry) for entry in items(request.get("0040100A"))) if item]
        if not coded and (said := text(request.get("00401002"))):
            coded = [{"text": said}]
        found.extend(item for item in coded if item not in found)
    return found


def _modality(_: Context, values: tuple[Attribute, ...]) -> dict[str, Any]:
    """Modality is required in FHIR, and a header without one says nothing of the kind of image: DICOM's word is OT."""
    code = " ".join(text(values[0]).split()) or "OT"
    return {"system": DCM, "code": code}


def _body_site(_: Context, values: tuple[Attribute, ...]) -> dict[str, Any] | None:
    region, part = anatomic_region(values[1]), body_part(values[0])
    return part if region is None or (part is not None and region.get("system") != SCT) else region


def _laterality(_: Context, values: tuple[Attribute, ...]) -> dict[str, Any] | None:
    found = LATERALITY.get(text(values[0]).upper()) or LATERALITY.get(text(values[1]).upper())
    return found.coding() if found else None


def _both_sides(_: Sequence[Any]) -> dict[str, Any]:
    """Two images of a series may be of two sides, as mammograms are: the series is then of neither side alone."""
    return LATERALITY["B"].coding()


def _specimens(context: Context, values: tuple[Attribute, ...]) -> list[dict[str, Any]]:
    top, issuer, described = values
    held = [(text(top), issuer)] + [(text(item.get("00400551")), item.get("00400562")) for item in items(described)]
    found: list[dict[str, Any]] = []
    for value, assigned_by in held:
        if value:
            system = accession_system(assigned_by, context.site) if items(assigned_by) else None
            identifier = {**({"system": system} if system else {}), "value": value}
            reference = {"type": "Specimen", "identifier": identifier}
            if reference not in found:
                found.append(reference)
    return found


_PERFORMER = "http://terminology.hl7.org/CodeSystem/v3-ParticipationType"


def _performers(_: Context, values: tuple[Attribute, ...]) -> list[dict[str, Any]]:
    physician, physician_ids, operator, operator_ids, manufacturer, model, serial = values
    found: list[dict[str, Any]] = []
    for names, identifications, code, display in (
        (physician, physician_ids, "PRF", "performer"),
        (operator, operator_ids, "SPRF", "secondary performer"),
    ):
        function = {"coding": [{"system": _PERFORMER, "code": code, "display": display}]}
        found.extend({"function": function, "actor": actor} for actor in persons(names, identifications))
    machine = " ".join(part for part in (text(manufacturer), text(model)) if part)
    serial_number = text(serial)
    if machine or serial_number:
        device: dict[str, Any] = {"type": "Device"}
        if serial_number:
            kind = {"coding": [{"system": V2_0203, "code": "SNO", "display": "Serial Number"}]}
            device["identifier"] = {"type": kind, "value": serial_number}
        if machine:
            device["display"] = machine
        found.append({"actor": device})
    return found


def _instance_uid(_: Context, values: tuple[Attribute, ...]) -> str:
    return uid(values[0])


def _sop_class(_: Context, values: tuple[Attribute, ...]) -> dict[str, Any]:
    return {"system": "urn:ietf:rfc:3986", "code": f"urn:oid:{uid(values[0])}"}


def _title(_: Context, values: tuple[Attribute, ...]) -> str | None:
    kind, label, concept_name, document = values
    return "\\".join(texts(kind)) or text(label) or code_text(first_item(concept_name)) or text(document) or None


def _study_retrieve(context: Context, values: tuple[Attribute, ...]) -> list[dict[str, Any]]:
    found = retrieve_endpoint(text(values[0]), context.trusted_hosts)
    return [found] if found else []


def _series_retrieve(context: Context, values: tuple[Attribute, ...]) -> list[dict[str, Any]]:
    found = []
    for item in items(values[0]):
        named = uid(item.get("0020000E"))
        if named in ("", context.series_uid) and (
            endpoint := retrieve_endpoint(text(item.get("00081190")), context.trusted_hosts)
        ):
            found.append(endpoint)
    return found


def retrieve_endpoint(url: str, trusted_hosts: frozenset[str]) -> dict[str, Any] | None:
    """Return the contained Endpoint of a header's Retrieve URL, None where its host is not trusted.

    Whoever writes a header could else send every reader of the ImagingStudy, with a token, to a server of his own.
    """
    if not url or not trusted_hosts:
        return None
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    host = (parts.hostname or "").lower()
    known = host in trusted_hosts or f"{host}:{port}" in trusted_hosts
    base, found, _ = url.partition("/studies/")
    if not known or parts.scheme not in ("http", "https") or parts.username is not None or not found:
        return None
    address = base.rstrip("/")
    return {
        "resourceType": "Endpoint",
        "id": f"retrieve-{hashlib.sha256(address.encode()).hexdigest()[:16]}",
        "status": "active",
        "connectionType": WADO_RS.coding(),
        "payloadType": [{"text": "DICOM"}],
        "payloadMimeType": ["application/dicom"],
        "address": address,
    }


# M4 is the union of M18, M5 is the matched Patient, M10, M11 and M20 are counted, M9's site Endpoint comes from the
# site: the engine sets these five. "endpoint" values here are Endpoints to contain.
STUDY_RULES: tuple[Rule, ...] = (
    Rule("M1", "identifier", ("0020000D",), _study_uid, "PS3.3 C.7.2.1; R4 ImagingStudy notes on UIDs"),
    Rule("M2", "identifier", ("00080050", "00080051"), _accession_identifier, "PS3.3 C.7.2.1", "all"),
    Rule("M2", "basedOn", ("00080050", "00080051"), _based_on, "PS3.3 C.7.2.1; R4 mapping of basedOn", "all"),
    Rule("M3", "identifier", ("00200010",), _study_id, "PS3.3 C.7.2.1", "all"),
    Rule("M6", "started", ("00080020", "00080030", "00080201"), _date_time, "PS3.3 C.7.2.1, C.12.1"),
    Rule("M7", "referrer", ("00080090", "00080096"), _one_person, "PS3.3 C.7.2.1"),
    Rule("M8", "interpreter", ("00081060", "00081062"), _persons, "PS3.3 C.7.2.1", "all"),
    Rule("M9", "endpoint", ("00081190",), _study_retrieve, "PS3.3 C.12.1; PS3.18 10.4", "all"),
    Rule("M12", "procedureCode", ("00081032",), _concepts, "PS3.3 C.7.2.1", "all"),
    Rule("M13", "location", ("00081040", "00400243"), _location, "PS3.3 C.7.5.1, C.4.14"),
    Rule("M14", "reasonCode", ("00401002", "0040100A", "00400275"), _reasons, "PS3.3 C.4.11, Table 10-9", "all"),
    Rule("M15", "description", ("00081030",), _text, "PS3.3 C.7.2.1"),
)
SERIES_RULES: tuple[Rule, ...] = (
    Rule("M17", "number", ("00200011",), _number, "PS3.3 C.7.3.1"),
    Rule("M18", "modality", ("00080060",), _modality, "PS3.3 C.7.3.1"),
    Rule("M19", "description", ("0008103E",), _text, "PS3.3 C.7.3.1"),
    Rule("M21", "endpoint", ("00081115",), _series_retrieve, "PS3.3 Table 10-4; PS3.18 10.4", "all"),
    Rule("M22", "bodySite", ("00180015", "00082218"), _body_site, "PS3.16 Annex L, CID 4"),
    Rule(
        "M23",
        "laterality",
        ("00200060", "00200062"),
        _laterality,
        "PS3.3 C.7.3.1, C.8.11.7; PS3.16 CID 244",
        several=_both_sides,
    ),
    Rule("M24", "specimen", ("00400551", "00400562", "00400560"), _specimens, "PS3.3 C.7.6.22", "all"),
    Rule("M25", "started", ("00080021", "00080031", "00080201"), _date_time, "PS3.3 C.7.3.1, C.12.1"),
    Rule(
        "M26",
        "performer",
        ("00081050", "00081052", "00081070", "00081072", "00080070", "00081090", "00181000"),
        _performers,
        "PS3.3 C.7.3.1, C.7.5.1",
        "all",
    ),
)
INSTANCE_RULES: tuple[Rule, ...] = (
    Rule("M27", "uid", ("00080018",), _instance_uid, "PS3.3 C.12.1"),
    Rule("M28", "sopClass", ("00080016",), _sop_class, "PS3.3 C.12.1; R4 ImagingStudy notes on UIDs"),
    Rule("M29", "number", ("00200013",), _number, "PS3.3 C.7.6.1"),
    Rule(
        "M30", "title", ("00080008", "00700080", "0040A043", "00420010"), _title, "PS3.3 C.7.6.1, C.11.10, C.17.3, C.24"
    ),
)

SOURCES: frozenset[str] = frozenset(
    source for rule in (*STUDY_RULES, *SERIES_RULES, *INSTANCE_RULES) for source in rule.sources
) | {"00380010", "00380014", "00100010", "00100020", "00100021", "00100024", "00100030", "00100040", "0020000E"}
"""Every attribute that registering a study reads: the table's, admission and patient."""
