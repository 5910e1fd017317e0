"""A copy of an instance that names nobody: PS3.15 Annex E, Basic Application Level Confidentiality Profile (D39-D42).

Options of E.3: Retain Longitudinal Temporal Information with Modified Dates (a shift per patient), Retain Safe Private
(a list), Clean Pixel Data (regions). The whole file is written anew: preamble, file meta information, every element at
every depth, overlays, curves, offsets, padding and what compressed frames carry beside their pixels. What is not known
to be harmless goes; what can't be made harmless is refused, with a code that says so.

UIDs and Patient IDs are mapped by a key (`imaging_core.dicom.pseudonym`), consistently over all files.

Only to be called in a decode child (`imaging_core.dicom.child`).
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Literal

from pydicom import DataElement, Dataset
from pydicom._uid_dict import UID_dictionary
from pydicom.datadict import dictionary_has_tag, dictionary_VM, dictionary_VR, repeater_has_tag
from pydicom.dataset import FileMetaDataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.uid import UID

from imaging_core import __version__
from imaging_core.dicom.archival import IMPLEMENTATION_UID
from imaging_core.dicom.codes import known_meaning
from imaging_core.dicom.confidentiality_profile import BINARY_KEPT, EDITION, TEXT_KEPT, TEXT_REMOVED, Action, action
from imaging_core.dicom.deidentify_pixels import Region, clean_pixels
from imaging_core.dicom.header import HeaderLimits, read_header
from imaging_core.dicom.icc_profile import SRGB
from imaging_core.dicom.part10 import open_part10
from imaging_core.dicom.pseudonym import Pseudonyms
from imaging_core.errors import Rejected

__all__ = ["Options", "SafePrivate", "deidentify"]

DUMMY = "ANONYMIZED"
_PATIENT_ID, _ISSUER, _PATIENT_NAME = 0x00100020, 0x00100021, 0x00100010
_PIXELS = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
_DATES = frozenset({"DA", "DT", "TM"})
_TEXT = frozenset({"LO", "SH", "ST", "LT", "UT", "UC"})
_BINARY = frozenset({"OB", "OW", "OF", "OD", "OL", "OV", "UN"})
_NUMBERS = frozenset({"US", "SS", "UL", "SL", "UV", "SV", "FL", "FD", "AT"})
_AMBIGUOUS = frozenset({"US", "SS", "OW", "OB"})
# Content that is nothing but what the profile removes: reports, documents, what a vendor alone can read.
_REFUSED = {
    "1.2.840.10008.5.1.4.1.1.88.": "a structured report",
    "1.2.840.10008.5.1.4.1.1.104.": "an encapsulated document",
    "1.2.840.10008.5.1.4.1.1.66": "raw data",
    "1.2.840.10008.5.1.4.1.1.11.": "a presentation state",
}
_TECHNICAL = re.compile(r"[A-Za-z0-9 ._/+\-()*:,%\[\]#&=;<>^]{0,64}")
_FORMS: dict[str, re.Pattern[str]] = {
    "CS": re.compile(r"[A-Z0-9_ ]{0,16}"),
    "DS": re.compile(r" *[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)? *|"),
    "IS": re.compile(r" *[+-]?\d{1,11} *|"),
    "AS": re.compile(r"\d{3}[DWMY]|"),
}
_CODE = frozenset({0x00080100, 0x00080102, 0x00080104})
_SAME_TEXT_LEAST = 5


@dataclass(frozen=True)
class SafePrivate:
    """A private element that is known to name nobody (PS3.15 E.3.10): its creator, group and last byte."""

    creator: str
    group: int
    element: int


@dataclass(frozen=True)
class Options:
    """What the copy keeps beyond the basic profile.

    Parameters
    ----------
    dates : str
        ``remove``, or ``shift``: all dates of a patient go back by the same number of days, times of day stay.
    safe_private : tuple of SafePrivate
        Private elements to keep.
    regions : tuple of Region
        Rectangles to blank in every frame.
    pixels_seen : bool
        A person has seen the pixels, and vouches that they name nobody: flagged instances are taken without regions.
    """

    dates: Literal["remove", "shift"] = "remove"
    safe_private: tuple[SafePrivate, ...] = ()
    regions: tuple[Region, ...] = ()
    pixels_seen: bool = False


def deidentify(data: bytes, pseudonyms: Pseudonyms, options: Options | None = None) -> bytes:
    """Return a DICOM Part 10 file that names nobody.

    Parameters
    ----------
    data : bytes
        A DICOM Part 10 file.
    pseudonyms : Pseudonyms
        The key.
    options : Options or None
        None: the basic profile alone.

    Raises
    ------
    Rejected
        ``may-identify``: flagged (D42) and neither regions are given nor a person vouches. ``not-deidentifiable``: a
        report, a document, raw data, a private SOP class, or a file of which something is not understood. And what
        `read_header` refuses.
    """
    options = options or Options()
    header = read_header(data, HeaderLimits())
    for beginning, what in _REFUSED.items():
        if header.sop_class_uid == beginning or (beginning[-1] == "." and header.sop_class_uid.startswith(beginning)):
            raise Rejected("not-deidentifiable", f"{what} consists of what the profile removes")
    if UID_dictionary.get(header.sop_class_uid, ("", ""))[1] != "SOP Class":
        raise Rejected("not-deidentifiable", "a private SOP class: nobody here knows what it may hold")
    if header.flags and not options.regions and not options.pixels_seen:
        raise Rejected("may-identify", f"{', '.join(header.flags)}: name regions to blank, or vouch for the pixels")
    dataset = open_part10(data)
    names = _names(dataset)
    cleaner = _Cleaner(dataset, pseudonyms, options)
    clean_pixels(dataset, options.regions)
    cleaner.clean(dataset)
    _declare(dataset, cleaner, options)
    dataset.file_meta = _file_meta(dataset)
    dataset.preamble = bytes(128)
    _check_nothing_left(dataset, names)
    out = io.BytesIO()
    dataset.save_as(out, enforce_file_format=True)
    return out.getvalue()


class _Cleaner:
    """One file's elements, at every depth."""

    def __init__(self, dataset: Dataset, pseudonyms: Pseudonyms, options: Options) -> None:
        number, issuer = str(dataset.get("PatientID") or ""), str(dataset.get("IssuerOfPatientID") or "")
        self.patient = pseudonyms.patient(number, issuer)
        self._pseudonyms = pseudonyms
        self._safe = {(item.creator, item.group, item.element) for item in options.safe_private}
        self._shift = timedelta(days=pseudonyms.days(number, issuer)) if options.dates == "shift" else None

    def clean(self, dataset: Dataset) -> None:
        """Clean a data set in place."""
        safe = set(self._safe_private(dataset))
        coded = self._code(dataset)
        for tag in list(dataset.keys()):
            number = int(tag)
            if number in _PIXELS or number in coded:
                continue
            if number >> 16 & 1:
                if number not in safe:
                    del dataset[tag]
                continue
            if self._forbidden(number):
                del dataset[tag]
                continue
            try:
                element = dataset[tag]
            except (ValueError, NotImplementedError, KeyError, TypeError):
                del dataset[tag]  # what can't be read can't be cleaned
                continue
            self._element(dataset, element, number)

    def _forbidden(self, tag: int) -> bool:
        """Return whether an element is nobody's: of groups that may hold anything, retired lengths, not in PS3.6."""
        group = tag >> 16
        if tag & 0xFFFF == 0 or group < 0x0008 or group in (0x0400, 0x4FFE, 0xFFFA, 0xFFFC):
            return True
        if 0x5000 <= group <= 0x50FF or 0x6000 <= group <= 0x60FF:  # curves, overlays with all that describes them
            return True
        return not dictionary_has_tag(tag) and not repeater_has_tag(tag)

    def _safe_private(self, dataset: Dataset) -> Iterator[int]:
        for tag in dataset.keys():  # noqa: SIM118  # a Dataset iterates over elements, not tags
            number = int(tag)
            group, block = number >> 16, number >> 8 & 0xFF
            if not group & 1 or block < 0x10:
                continue
            creator = dataset.get(group << 16 | block)
            if creator is not None and (str(creator.value), group, number & 0xFF) in self._safe:
                yield number
                yield group << 16 | block

    def _element(self, dataset: Dataset, element: DataElement, tag: int) -> None:
        vr = dictionary_VR(tag)
        if vr != element.VR and not (" or " in vr and element.VR in _AMBIGUOUS):
            del dataset[tag]  # a value in disguise
            return
        wanted = action(tag, sequence=element.VR == "SQ")
        if tag == _PATIENT_ID:
            self._set(dataset, tag, "LO", self.patient)
        elif tag == _PATIENT_NAME:
            self._set(dataset, tag, "PN", self.patient)
        elif wanted in ("remove", "empty", "replace") and element.VR in ("DA", "DT") and self._shift is not None:
            self._date(dataset, element, tag)
        elif wanted is not None and not (element.VR == "TM" and self._shift is not None and tag >> 16 != 0x0010):
            self._act(dataset, element, tag, wanted)
        else:
            self._unnamed(dataset, element, tag)

    def _act(self, dataset: Dataset, element: DataElement, tag: int, wanted: Action) -> None:
        if wanted == "remove":
            del dataset[tag]
        elif wanted == "empty":
            self._set(dataset, tag, element.VR, Sequence() if element.VR == "SQ" else None)
        elif wanted in ("uid", "recurse") and element.VR in ("UI", "SQ"):
            self._unnamed(dataset, element, tag)
        elif element.VR == "SQ":
            self._items(element, dummies=True)
        else:
            self._set(dataset, tag, element.VR, _dummy(element.VR))

    def _unnamed(self, dataset: Dataset, element: DataElement, tag: int) -> None:
        """Keep a value that can't hold a name."""
        vr = element.VR
        if vr == "SQ":
            self._items(element)
        elif vr == "UI":
            self._set(dataset, tag, "UI", self._uids(element))
        elif vr in _DATES:
            self._date(dataset, element, tag)
        elif vr in _FORMS:
            if not all(_FORMS[vr].fullmatch(text) for text in _raw_texts(element)):
                del dataset[tag]
        elif vr in _TEXT:
            if tag in TEXT_REMOVED:
                del dataset[tag]
            elif not (tag in TEXT_KEPT and all(_TECHNICAL.fullmatch(text) for text in _raw_texts(element))):
                self._set(dataset, tag, vr, DUMMY if element.value else None)
        elif vr in _BINARY:
            if tag == 0x00282000:
                self._set(dataset, tag, "OB", SRGB)
            elif tag not in BINARY_KEPT:
                del dataset[tag]
        elif vr in _NUMBERS:
            if not _fits_multiplicity(element, tag) or _reads_as_text(element):
                del dataset[tag]
        else:
            self._set(dataset, tag, vr, _dummy(vr) if element.value else None)

    def _items(self, element: DataElement, *, dummies: bool = False) -> None:
        for item in element.value:
            self.clean(item)
            if dummies:
                for inner in list(item):
                    if inner.VR in _TEXT | {"PN", "AE", "UR"}:
                        self._set(item, int(inner.tag), inner.VR, _dummy(inner.VR))

    def _uids(self, element: DataElement) -> Any:
        values = [element.value] if isinstance(element.value, str) else list(element.value or ())
        mapped = [value if value == "" or value in UID_dictionary else self._pseudonyms.uid(value) for value in values]
        return mapped[0] if len(mapped) == 1 else mapped

    def _date(self, dataset: Dataset, element: DataElement, tag: int) -> None:
        """Shift a date, or replace it; of a patient's own dates none stays."""
        vr = element.VR
        texts = _raw_texts(element)
        if self._shift is None or tag >> 16 == 0x0010:
            wanted = action(tag, sequence=False)
            self._set(dataset, tag, vr, None if wanted in ("empty", "remove") or not any(texts) else _dummy(vr))
            return
        if vr == "TM":
            fine = all(re.fullmatch(r"(\d{2}){0,3}(\.\d{1,6})? *", text) for text in texts)
            self._set(dataset, tag, vr, texts if fine else _dummy(vr))
            return
        moved = [self._moved(text) for text in texts]
        self._set(dataset, tag, vr, moved if all(text is not None for text in moved) else _dummy(vr))

    def _moved(self, text: str) -> str | None:
        match = re.fullmatch(r"(\d{4})(\d{2})(\d{2})((?:\d{2}){0,3}(?:\.\d{1,6})?(?:[+-]\d{4})?) *", text)
        if match is None or self._shift is None:
            return "" if not text.strip() else None
        try:
            moved = date(int(match[1]), int(match[2]), int(match[3])) - self._shift
        except (ValueError, OverflowError):
            return None
        return f"{moved:%Y%m%d}{match[4]}" if moved.year >= 1000 else None

    @staticmethod
    def _code(dataset: Dataset) -> frozenset[int]:
        """Keep what a standard scheme codes, in the standard's own words (PS3.3 8.1, 8.3); return what was written."""
        if "CodeValue" not in dataset and "CodeMeaning" not in dataset and "LongCodeValue" not in dataset:
            return frozenset()
        value, scheme = str(dataset.get("CodeValue") or ""), str(dataset.get("CodingSchemeDesignator") or "")
        meaning = known_meaning(scheme, value)
        for tag in [tag for tag in dataset.keys() if 0x00080100 <= tag <= 0x0008012F]:  # noqa: SIM118  # tags
            del dataset[tag]
        if meaning is None:
            value, scheme, meaning = "REMOVED", "99ANON", "Removed"
        dataset.CodeValue, dataset.CodingSchemeDesignator, dataset.CodeMeaning = value, scheme, meaning
        return _CODE

    @staticmethod
    def _set(dataset: Dataset, tag: int, vr: str, value: Any) -> None:
        if tag in dataset:
            del dataset[tag]
        if isinstance(value, list):
            value = value[0] if len(value) == 1 else value
        dataset.add_new(tag, vr, value)


def _raw_texts(element: DataElement) -> list[str]:
    """Return the values as they are written."""
    value = element.value
    if value is None:
        return [""]
    values = list(value) if isinstance(value, MultiValue | list) else [value]
    return [str(getattr(item, "original_string", item)).rstrip("\0 ") for item in values]


def _fits_multiplicity(element: DataElement, tag: int) -> bool:
    """Return whether there are as many values as PS3.6 allows: 1, 1-3, 1-n, 2-2n ..."""
    least, _, most = dictionary_VM(tag).partition("-")
    if element.VM == 0 or most.endswith("n") or not least.isdigit():
        return True
    return int(least) <= element.VM <= int(most or least)


def _reads_as_text(element: DataElement) -> bool:
    """Return whether whole numbers are letters in a row, which no list of counts, sizes or tags is."""
    width = {"US": 2, "SS": 2, "UL": 4, "SL": 4, "UV": 8, "SV": 8, "AT": 4}.get(element.VR)
    if width is None:
        return False
    values = list(element.value) if isinstance(element.value, MultiValue | list) else [element.value or 0]
    if not all(isinstance(value, int) for value in values):
        return True  # bytes that fit no number
    half = 2 if element.VR == "AT" else width
    written = b"".join(
        (int(value) >> shift & ((1 << 8 * half) - 1)).to_bytes(half, "little")
        for value in values
        for shift in ((16, 0) if element.VR == "AT" else (0,))
    )
    return re.search(rb"[A-Za-z]{5}", written) is not None


_DUMMIES: dict[str, Callable[[], Any]] = {
    "DA": lambda: "19000101",
    "DT": lambda: "19000101000000",
    "TM": lambda: "000000",
    "AS": lambda: "000Y",
    "UR": lambda: "http://anonymized.invalid",
    "DS": lambda: "0",
    "IS": lambda: "0",
    **dict.fromkeys(("US", "SS", "UL", "SL", "UV", "SV", "FL", "FD"), lambda: 0),
    **dict.fromkeys(("OB", "OW", "OF", "OD", "OL", "OV", "UN"), lambda: b"\0\0\0\0\0\0\0\0"),
}


def _dummy(vr: str) -> Any:
    make = _DUMMIES.get(vr)
    return make() if make is not None else DUMMY


def _declare(dataset: Dataset, cleaner: _Cleaner, options: Options) -> None:
    """Say what was done (D41): PS3.3 C.7.1.1 and C.12.1, codes of CID 7050."""
    done = [("113100", "Basic Application Confidentiality Profile")]
    if options.regions:
        done.append(("113101", "Clean Pixel Data Option"))
        dataset.BurnedInAnnotation = "NO"
    if options.dates == "shift":
        done.append(("113107", "Retain Longitudinal Temporal Information Modified Dates Option"))
    if options.safe_private:
        done.append(("113111", "Retain Safe Private Option"))
    dataset.PatientID = dataset.get("PatientID") or cleaner.patient
    dataset.PatientName = dataset.get("PatientName") or cleaner.patient
    dataset.PatientIdentityRemoved = "YES"
    dataset.DeidentificationMethod = f"IMAGING {__version__}: PS3.15 Annex E {EDITION}"
    dataset.DeidentificationMethodCodeSequence = Sequence(_coded(value, meaning) for value, meaning in done)
    dataset.LongitudinalTemporalInformationModified = "MODIFIED" if options.dates == "shift" else "REMOVED"


def _coded(value: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", meaning
    return item


def _file_meta(dataset: Dataset) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = dataset.file_meta.TransferSyntaxUID
    meta.ImplementationClassUID = UID(IMPLEMENTATION_UID)
    meta.ImplementationVersionName = f"IMAGING_{__version__}"[:16]
    return meta


def _names(dataset: Dataset) -> set[str]:
    """Return the words that name the patient in the original."""
    words = set()
    for keyword in ("PatientName", "PatientID", "AccessionNumber", "OtherPatientIDs", "PatientBirthName"):
        value = dataset.get(keyword)
        for text in value if isinstance(value, MultiValue) else [value or ""]:
            words |= set(re.split(r"[\^= ,]+", str(text).lower()))
    return {word for word in words if len(word) >= _SAME_TEXT_LEAST and not word.isdigit()}


def _check_nothing_left(dataset: Dataset, names: set[str]) -> None:
    """Look once more, with other eyes: no text of the copy may hold a word that named the patient."""
    for element in dataset.iterall():
        if element.VR in _TEXT | {"PN", "CS", "AE", "UR"}:
            text = str(element.value).lower()
            if any(name in text for name in names):
                raise Rejected("not-deidentifiable", f"{element.tag} still holds a word that names the patient")
