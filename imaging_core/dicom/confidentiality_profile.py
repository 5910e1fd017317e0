"""What PS3.15 Annex E has a de-identifier do with each attribute, and what is done with those that it does not name.

The actions of Table E.1-1 (Basic Application Level Confidentiality Profile, edition 2026c) come from the tables of
`dicom-anonymizer`, which is kept up with the standard. Its engine is not used: a test shows what it leaves (nested
items, the preamble, overlays' descriptions, text in compressed frames, values in disguise), and it keeps UIDs in a
random table of the process.

Where the table allows several actions ("X unless Z or D is required to maintain IOD conformance") the one is taken that
keeps every IOD valid: D before Z before X, but for sequences, which are removed or emptied.

An attribute that the table does not name is kept only if its value can't hold a name: a number, a coded string of its
own representation, or technical text from a short list.
"""

from __future__ import annotations

import functools
from typing import Literal

from pydicom.datadict import tag_for_keyword

__all__ = ["BINARY_KEPT", "EDITION", "TEXT_KEPT", "TEXT_REMOVED", "Action", "action"]

Action = Literal["remove", "empty", "replace", "uid", "recurse"]
EDITION = "2026c"
_SEQUENCES: dict[str, Action] = {
    "D_TAGS": "replace",
    "Z_TAGS": "empty",
    "X_TAGS": "remove",
    "U_TAGS": "uid",
    "Z_D_TAGS": "empty",
    "X_Z_TAGS": "empty",
    "X_D_TAGS": "remove",
    "X_Z_D_TAGS": "remove",
    "X_Z_U_STAR_TAGS": "recurse",
}
_VALUES: dict[str, Action] = {
    **_SEQUENCES,
    "Z_D_TAGS": "replace",
    "X_D_TAGS": "replace",
    "X_Z_D_TAGS": "replace",
    "X_Z_U_STAR_TAGS": "uid",
}


def _tags(keywords: str) -> frozenset[int]:
    found = [tag_for_keyword(keyword) for keyword in keywords.split()]
    if None in found:
        raise ValueError(f"no attribute: {keywords.split()[found.index(None)]}")
    return frozenset(tag for tag in found if tag is not None)


# Technical text that is kept where it reads like such: models, kernels, coils, units. None of them is in Table E.1-1.
TEXT_KEPT = _tags(
    """
    SpecificCharacterSet Manufacturer ManufacturerModelName SoftwareVersions SequenceName PulseSequenceName
    ConvolutionKernel FilterType TypeOfFilters ReceiveCoilName TransmitCoilName ImagedNucleus Grid RescaleType
    ModalityLUTType CollimatorGridName PlateType PhosphorType SegmentAlgorithmName AcquisitionDeviceProcessingCode
    """
)
# Explanations that nothing needs: they are left out rather than replaced by a word that means nothing.
TEXT_REMOVED = _tags("WindowCenterWidthExplanation LUTExplanation")
# Bulk numbers that an image, a curve or a colour table is made of. Other binary values may hold anything and go.
BINARY_KEPT = _tags(
    """
    PixelData FloatPixelData DoubleFloatPixelData RedPaletteColorLookupTableData GreenPaletteColorLookupTableData
    BluePaletteColorLookupTableData AlphaPaletteColorLookupTableData SegmentedRedPaletteColorLookupTableData
    SegmentedGreenPaletteColorLookupTableData SegmentedBluePaletteColorLookupTableData LUTData BlendingLookupTableData
    WaveformData ChannelMinimumValue ChannelMaximumValue WaveformPaddingValue SpectroscopyData PointCoordinatesData
    VectorCoordinateData TrianglePointIndexList EdgePointIndexList VertexPointIndexList PrimitivePointIndexList
    LongPrimitivePointIndexList LongEdgePointIndexList LongTrianglePointIndexList LongVertexPointIndexList
    """
)


@functools.cache
def _table() -> tuple[dict[int, tuple[Action, Action]], list[tuple[int, int, tuple[Action, Action]]]]:
    """Return the actions by tag, and those of repeating groups by masked tag."""
    from dicomanonymizer.dicomfields_selector import (  # type: ignore[import-untyped]  # it ships no types
        dicom_anonymization_database_selector,
    )

    single: dict[int, tuple[Action, Action]] = {}
    repeating: list[tuple[int, int, tuple[Action, Action]]] = []
    for name, tags in dicom_anonymization_database_selector(f"dicomfields_{EDITION}").items():
        if name not in _VALUES:
            continue
        actions = (_VALUES[name], _SEQUENCES[name])
        for group, element, *mask in tags:
            tag = group << 16 | element
            if mask:
                repeating.append((mask[0] << 16 | mask[1], tag, actions))
            else:
                single[tag] = actions
    return single, repeating


def action(tag: int, *, sequence: bool) -> Action | None:
    """Return what Table E.1-1 has done with an attribute; None where it does not name it.

    Parameters
    ----------
    tag : int
        Of a standard attribute, at any depth.
    sequence : bool
        The attribute is a sequence.
    """
    single, repeating = _table()
    found = single.get(tag)
    if found is None:
        found = next((actions for mask, masked, actions in repeating if tag & mask == masked & mask), None)
    return None if found is None else found[sequence]
