"""What an instance is flagged with, and when it is stored although it does not match its SOP class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydicom.data import get_testdata_file
from pydicom.uid import (
    ComprehensiveSRStorage,
    EncapsulatedPDFStorage,
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    SecondaryCaptureImageStorage,
    UltrasoundImageStorage,
)

from imaging_core.dicom.conformance import missing
from imaging_core.dicom.header import HeaderLimits, read_header
from imaging_core.errors import Rejected
from tests.dicom_samples import instance, part10

LIMITS = HeaderLimits()
COMPLETE: dict[str, Any] = {"ImageType": ["ORIGINAL", "PRIMARY"], "RescaleSlope": "1", "RescaleIntercept": "-1024"}


@pytest.mark.requirement("D7")
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ()),
        ({"Modality": None}, ("B007",)),
        ({"Modality": ""}, ("B007",)),
        ({"PhotometricInterpretation": None}, ("B007",)),
        ({"PixelRepresentation": None}, ("B007",)),
        ({"HighBit": 11}, ("B007",)),
        ({"BitsStored": 12, "HighBit": 11}, ()),
        ({"ImageType": None}, ("B007",)),
        ({"PixelData": None}, ("B007",)),
        ({"SamplesPerPixel": 3, "Rows": 2, "Columns": 2, "PhotometricInterpretation": "RGB"}, ("B007",)),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, ("B007",)),
        ({"PixelData": None, "SOPClassUID": ComprehensiveSRStorage, "Modality": "SR"}, ()),
        ({"PixelData": None, "SOPClassUID": EncapsulatedPDFStorage, "Modality": "DOC"}, ()),
    ],
)
def test_a_data_set_that_does_not_match_is_stored_with_a_warning(
    changes: dict[str, Any], expected: tuple[str, ...]
) -> None:
    data = part10(instance(**{**COMPLETE, **changes}))
    assert read_header(data, LIMITS).warnings == expected


@pytest.mark.requirement("D7")
def test_honest_files_have_no_warning() -> None:
    """Of pydicom's image files only those that truly lack something get one."""
    small = get_testdata_file("CT_small.dcm")
    found = {}
    for path in Path(str(small)).parent.glob("*.dcm"):
        try:
            header = read_header(path.read_bytes(), LIMITS)
        except Rejected:
            continue
        pixels = 0x7FE00010 if header.pixel_sha256 else None
        lacks = missing(header.attributes, header.sop_class_uid, pixels=pixels)
        if lacks:
            found[path.name] = lacks
    assert set(map(tuple, found.values())) <= {("Modality",)}, found
    assert len(found) <= 6


@pytest.mark.requirement("D42")
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ()),
        ({"BurnedInAnnotation": "NO"}, ()),
        ({"BurnedInAnnotation": "YES"}, ("burned-in-annotation",)),
        ({"BurnedInAnnotation": "yes "}, ("burned-in-annotation",)),
        ({"RecognizableVisualFeatures": "YES"}, ("recognizable-features",)),
        ({"SOPClassUID": SecondaryCaptureImageStorage}, ("screen-capture",)),
        ({"SOPClassUID": MultiFrameGrayscaleByteSecondaryCaptureImageStorage}, ("screen-capture",)),
        ({"ConversionType": "SD"}, ("screen-capture",)),
        ({"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}, ("screen-capture",)),
        ({"SOPClassUID": UltrasoundImageStorage, "Modality": "US"}, ("ultrasound",)),
        ({"SOPClassUID": EncapsulatedPDFStorage, "PixelData": None}, ("encapsulated-document",)),
        (
            {"BurnedInAnnotation": "YES", "SOPClassUID": SecondaryCaptureImageStorage},
            ("burned-in-annotation", "screen-capture"),
        ),
    ],
)
def test_flags(changes: dict[str, Any], expected: tuple[str, ...]) -> None:
    assert read_header(part10(instance(**changes)), LIMITS).flags == expected
