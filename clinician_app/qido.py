"""QIDO-RS: which studies, series and instances match, and what is told of each (PS3.18 10.6, 8.3.4)."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword

from clinician_app.own_instances import OwnInstance
from imaging_core.errors import Rejected

__all__ = ["Level", "Query", "search"]

Level = Literal["study", "series", "instance"]
Json = dict[str, Any]

_MOST = 500
_DEFAULT = 100
_CONTROLS = {"limit", "offset", "fuzzymatching", "includefield", "launch", "patient"}

# PS3.18 Tables 10.6.3-3 to 10.6.3-5: what every answer holds, with the tags.
_STUDY = {
    "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName", "TimezoneOffsetFromUTC", "PatientName",
    "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyID",
    "StudyDescription", "IssuerOfPatientID",
}  # fmt: skip
_SERIES = {
    "Modality", "TimezoneOffsetFromUTC", "SeriesDescription", "SeriesInstanceUID", "SeriesNumber", "BodyPartExamined",
    "Laterality", "PerformedProcedureStepStartDate", "PerformedProcedureStepStartTime", "RequestAttributesSequence",
}  # fmt: skip
_INSTANCE = {
    "SOPClassUID", "SOPInstanceUID", "TimezoneOffsetFromUTC", "InstanceNumber", "Rows", "Columns", "BitsAllocated",
    "NumberOfFrames",
}  # fmt: skip
_OF_LEVEL: dict[Level, set[str]] = {"study": _STUDY, "series": _SERIES, "instance": _INSTANCE}
# Further attributes that may be asked for: those that are the same in all instances of a level.
_ALSO: dict[Level, set[str]] = {
    "study": {"PatientAge", "PatientSize", "PatientWeight", "InstitutionName", "StudyInstanceUID"},
    "series": {"Manufacturer", "ManufacturerModelName", "ProtocolName", "SeriesDate", "SeriesTime", "StationName"},
    "instance": {"ContentDate", "ContentTime", "AcquisitionDateTime", "ImageType", "ViewPosition", "SamplesPerPixel"},
}
_KEYS: dict[Level, str] = {"study": "study_uid", "series": "series_uid", "instance": "sop_uid"}
_COUNTED = {"ModalitiesInStudy", "NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances",
            "NumberOfSeriesRelatedInstances", "InstanceAvailability", "RetrieveURL"}  # fmt: skip


@dataclass(frozen=True)
class Query:
    """What is asked for.

    Parameters
    ----------
    filters : tuple of (str, str)
        Keyword and value.
    fields : frozenset of str
        Keywords to tell beside those that every answer holds.
    everything : bool
        ``includefield=all``.
    limit, offset : int
        Page.
    fuzzy : bool
        Fuzzy matching was asked for; the matching is literal, and the answer says so.
    """

    filters: tuple[tuple[str, str], ...]
    fields: frozenset[str]
    everything: bool
    limit: int
    offset: int
    fuzzy: bool

    @classmethod
    def parse(cls, arguments: Iterable[tuple[str, str]]) -> Query:
        """Read the query parameters.

        Raises
        ------
        Rejected
            ``bad-field``: an attribute that can't be matched, or a number that is none.
        """
        filters: list[tuple[str, str]] = []
        fields: set[str] = set()
        numbers = {"limit": _DEFAULT, "offset": 0}
        everything = fuzzy = False
        for name, value in arguments:
            if len(value) > 4_000:
                raise Rejected("bad-field", f"{name[:64]}: too long")
            if name in numbers:
                numbers[name] = _whole(name, value)
            elif name == "fuzzymatching":
                fuzzy = value.lower() == "true"
            elif name == "includefield":
                everything = everything or value == "all"
                fields |= {_keyword(item) for item in value.split(",") if item != "all"}
            elif name not in _CONTROLS:
                filters.append((_matchable(name), value))
        return cls(
            tuple(filters), frozenset(fields), everything, min(numbers["limit"], _MOST), numbers["offset"], fuzzy
        )


def search(
    level: Level,
    instances: Sequence[OwnInstance],
    query: Query,
    retrieve_url: Callable[[OwnInstance, Level], str],
    patient: Mapping[str, Json],
    *,
    all_levels: bool = False,
) -> tuple[list[Json], int]:
    """Return a page of matches in the DICOM JSON model, and how many more there are.

    Parameters
    ----------
    level : {'study', 'series', 'instance'}
        What is searched for.
    instances : sequence of OwnInstance
        All that may be seen.
    query : Query
        What is asked.
    retrieve_url : callable
        Address of a match.
    patient : mapping
        Attributes of the Patient that a study was linked to, in place of the header's; by tag.
    all_levels : bool
        The address names no study (or series), so the answer tells the attributes of the levels above as well.
    """
    groups: dict[tuple[str, ...], list[OwnInstance]] = {}
    by_study: dict[str, list[OwnInstance]] = {}
    for item in instances:
        by_study.setdefault(item.study_uid, []).append(item)
        groups.setdefault((item.study_uid, item.series_uid, item.sop_uid)[: _depth(level)], []).append(item)
    matches = []
    for members in groups.values():
        described = _describe(level, members, by_study[members[0].study_uid], retrieve_url, patient)
        if all(_matches(described, keyword, value, members) for keyword, value in query.filters):
            matches.append((described, members))
    page = matches[query.offset : query.offset + query.limit]
    told = [_told(level, described, query, all_levels=all_levels) for described, _ in page]
    return told, max(0, len(matches) - query.offset - len(page))


def _depth(level: Level) -> int:
    return {"study": 1, "series": 2, "instance": 3}[level]


def _describe(
    level: Level,
    members: Sequence[OwnInstance],
    study: Sequence[OwnInstance],
    retrieve_url: Callable[[OwnInstance, Level], str],
    patient: Mapping[str, Json],
) -> Json:
    """Return everything that may be told of a match."""
    first = members[0]
    found: Json = {**first.header, **(patient if first.linked else {})}
    modalities = sorted({_first(item.header, "Modality") for item in study} - {""})
    found[_tag("ModalitiesInStudy")] = {"vr": "CS", "Value": modalities}
    found[_tag("NumberOfStudyRelatedSeries")] = {"vr": "IS", "Value": [len({item.series_uid for item in study})]}
    found[_tag("NumberOfStudyRelatedInstances")] = {"vr": "IS", "Value": [len(study)]}
    series = [item for item in study if item.series_uid == first.series_uid]
    found[_tag("NumberOfSeriesRelatedInstances")] = {"vr": "IS", "Value": [len(series)]}
    found[_tag("InstanceAvailability")] = {"vr": "CS", "Value": ["ONLINE"]}
    found[_tag("RetrieveURL")] = {"vr": "UR", "Value": [retrieve_url(first, level)]}
    return found


def _told(level: Level, described: Json, query: Query, *, all_levels: bool) -> Json:
    shown: list[Level] = [level]
    if all_levels:
        shown = (["study", "series", "instance"])[: _depth(level)]  # type: ignore[assignment]  # a list of the literals
    keywords = {"InstanceAvailability", "RetrieveURL", *query.fields}
    for name in shown:
        keywords |= _OF_LEVEL[name] | (_ALSO[name] if query.everything else set())
    if "study" in shown:
        keywords |= {"ModalitiesInStudy", "NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances"}
    if "series" in shown:
        keywords |= {"NumberOfSeriesRelatedInstances"}
    keywords |= {"StudyInstanceUID"} | ({"SeriesInstanceUID"} if level != "study" else set())
    out: Json = {}
    for keyword in keywords:
        tag = _tag(keyword)
        if tag in described:
            out[tag] = described[tag]
        elif keyword in _OF_LEVEL[level]:
            out[tag] = {"vr": dictionary_VR(int(tag, 16))}  # known to be empty
    if "SpecificCharacterSet" in keywords or _tag("SpecificCharacterSet") in described:
        out[_tag("SpecificCharacterSet")] = {"vr": "CS", "Value": ["ISO_IR 192"]}
    return dict(sorted(out.items()))


def _matches(described: Json, keyword: str, wanted: str, members: Sequence[OwnInstance]) -> bool:
    """Match one attribute (PS3.4 C.2.2.2): a list of UIDs, a range, a wildcard, or the value itself."""
    if wanted in ("", "*"):
        return True
    vr = dictionary_VR(int(_tag(keyword), 16))
    values = [str(item) for item in _values(described, keyword)]
    if keyword in _INSTANCE | {"Modality", "SeriesInstanceUID"}:  # a level below the one that is searched for
        values = [str(value) for item in members for value in _values({**item.header}, keyword)] or values
    if vr == "UI":
        return bool(set(values) & set(re.split(r"[,\\]", wanted)))
    if vr in ("DA", "TM", "DT") and "-" in wanted:
        low, _, high = wanted.partition("-")
        # a time that is told to the minute stands for all of its seconds
        return any((not low or value >= low) and (not high or value[: len(high)] <= high) for value in values)
    if vr == "PN":
        return any(_like(value.casefold(), wanted.casefold()) for value in values)
    return any(_like(value, wanted) for value in values)


def _like(value: str, pattern: str) -> bool:
    if not set("*?") & set(pattern):
        return value == pattern
    if pattern.count("*") > 8:
        raise Rejected("bad-field", "too many wildcards")
    return fnmatch.fnmatchcase(value, pattern.replace("[", "[[]"))


def _values(described: Json, keyword: str) -> list[Any]:
    element = described.get(_tag(keyword)) or {}
    values = element.get("Value") or []
    return [item.get("Alphabetic", "") if isinstance(item, dict) else item for item in values if item is not None]


def _first(header: Json, keyword: str) -> str:
    return str(next(iter(_values(header, keyword)), ""))


def _tag(keyword: str) -> str:
    return f"{tag_for_keyword(keyword):08X}"


def _keyword(name: str) -> str:
    """Return the keyword of an attribute that is named by keyword or by tag."""
    if re.fullmatch(r"[0-9A-Fa-f]{8}", name):
        name = keyword_for_tag(int(name, 16))
    if not name or tag_for_keyword(name) is None:
        raise Rejected("bad-field", "an attribute that is not in PS3.6")
    return name


def _matchable(name: str) -> str:
    keyword = _keyword(name)
    if (
        keyword not in set().union(*_OF_LEVEL.values()) | {"ModalitiesInStudy"}
        or keyword == "RequestAttributesSequence"
    ):
        raise Rejected("bad-field", f"{keyword} can't be matched here")
    return keyword


def _whole(name: str, value: str) -> int:
    if not (value.isascii() and value.isdigit() and len(value) <= 7):
        raise Rejected("bad-field", f"{name}: a number from 0")
    return int(value)
