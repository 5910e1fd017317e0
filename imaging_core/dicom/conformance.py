"""Where a data set that is stored departs from its SOP class: the warnings of a Store Instances Response (D7).

PS3.18 I.2.1 gives Warning Reason (0008,1196) the values of PS3.4 Table B.2-1 (B.2.3): B000 coercion of data elements,
B006 elements discarded, B007 data set does not match SOP class. Here only B007 can arise from a data set; B000 belongs
to a study that a person linked to another patient, and B006 never arises, for nothing is discarded.

What is looked at is what every consumer of an image relies on: the Type 1 attributes of the General Series and Image
Pixel modules (PS3.3 C.7.3.1, C.7.6.3), and those of the IOD that make a computed radiograph, CT or MR usable. It is no
validator: a data set without a warning may still break a rule.
"""

from __future__ import annotations

from typing import Any

from imaging_core.dicom.json_model import first

__all__ = ["DOES_NOT_MATCH", "missing", "warnings"]

DOES_NOT_MATCH = "B007"

_MODALITY = "00080060"
# Image Pixel, PS3.3 Table C.7-11c: Type 1 wherever there is Pixel Data.
_PIXEL_MODULE = {
    "00280002": "SamplesPerPixel",
    "00280004": "PhotometricInterpretation",
    "00280010": "Rows",
    "00280011": "Columns",
    "00280100": "BitsAllocated",
    "00280101": "BitsStored",
    "00280102": "HighBit",
    "00280103": "PixelRepresentation",
}
# Floating Point Image Pixel, PS3.3 C.7.6.24: no stored bits, no sign.
_OF_INTEGERS = frozenset({"00280101", "00280102", "00280103"})
_INTEGER_PIXELS = 0x7FE00010
_IMAGE_CLASSES = "1.2.840.10008.5.1.4.1.1."
# Classes below the storage root that hold no image: waveforms, presentation states, reports, documents, RT plans ...
_NO_IMAGE = tuple(
    _IMAGE_CLASSES + suffix
    for suffix in (
        "8",
        "9.",
        "10",
        "11",
        "66",
        "67",
        "68",
        "79",
        "88.",
        "90",
        "104.",
        "200",
        "201",
        "481.",
        "501",
        "601",
    )
)
_WITH_IMAGE = {_IMAGE_CLASSES + suffix for suffix in ("481.1", "481.2", "66.4", "66.7", "66.8")}
_PHOTOMETRIC = {
    "MONOCHROME1": 1,
    "MONOCHROME2": 1,
    "PALETTE COLOR": 1,
    "RGB": 3,
    "YBR_FULL": 3,
    "YBR_FULL_422": 3,
    "YBR_PARTIAL_420": 3,
    "YBR_PARTIAL_422": 3,
    "YBR_ICT": 3,
    "YBR_RCT": 3,
    "XYB": 3,
}
# Type 1 of one IOD each: Image Type for CT (C.8.2.1) and MR (C.8.3.1), as a model or a viewer sorts by it.
_OF_CLASS = {
    "1.2.840.10008.5.1.4.1.1.2": {"00080008": "ImageType", "00281052": "RescaleIntercept", "00281053": "RescaleSlope"},
    "1.2.840.10008.5.1.4.1.1.4": {"00080008": "ImageType"},
}


def missing(attributes: dict[str, Any], sop_class_uid: str, *, pixels: int | None) -> list[str]:
    """Return the keywords of what the SOP class demands and the data set lacks or contradicts."""
    found = [] if first(attributes, _MODALITY) else ["Modality"]
    if pixels is None:
        if _holds_image(sop_class_uid):
            found.append("PixelData")
        return found
    for tag, keyword in _PIXEL_MODULE.items():
        if first(attributes, tag) is None and (pixels == _INTEGER_PIXELS or tag not in _OF_INTEGERS):
            found.append(keyword)
    found += _contradictions(attributes)
    found += [keyword for tag, keyword in _OF_CLASS.get(sop_class_uid, {}).items() if first(attributes, tag) is None]
    return found


def warnings(attributes: dict[str, Any], sop_class_uid: str, *, pixels: int | None) -> tuple[str, ...]:
    """Return the Warning Reasons of a stored data set.

    Parameters
    ----------
    attributes : dict
        DICOM JSON model.
    sop_class_uid : str
        SOP class.
    pixels : int or None
        Tag of Pixel Data, Float Pixel Data or Double Float Pixel Data, where there is one.

    Returns
    -------
    tuple of str
        Four hexadecimal digits each: ``B007``, or nothing.
    """
    return (DOES_NOT_MATCH,) if missing(attributes, sop_class_uid, pixels=pixels) else ()


def _holds_image(sop_class_uid: str) -> bool:
    if sop_class_uid in _WITH_IMAGE:
        return True
    return sop_class_uid.startswith(_IMAGE_CLASSES) and not sop_class_uid.startswith(_NO_IMAGE)


def _contradictions(attributes: dict[str, Any]) -> list[str]:
    found = []
    photometric = str(first(attributes, "00280004") or "")
    samples = first(attributes, "00280002")
    expected = _PHOTOMETRIC.get(photometric)
    if expected is not None and samples not in (None, expected):
        found.append("SamplesPerPixel")
    if isinstance(samples, int) and samples > 1 and first(attributes, "00280006") is None:
        found.append("PlanarConfiguration")  # Type 1C: required with more than one sample
    if photometric == "PALETTE COLOR" and not {"00281101", "00281102", "00281103"} <= attributes.keys():
        found.append("RedPaletteColorLookupTableDescriptor")
    allocated, stored, high = (first(attributes, tag) for tag in ("00280100", "00280101", "00280102"))
    if isinstance(allocated, int) and isinstance(stored, int) and isinstance(high, int):
        if not 0 < stored <= allocated:
            found.append("BitsStored")
        if high != stored - 1:  # PS3.5 8.1.1
            found.append("HighBit")
    return found
