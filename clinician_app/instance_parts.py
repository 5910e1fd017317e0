"""Parts of one instance as WADO-RS answers them: metadata with bulk data URIs, bulk data, frames, a rendered picture.

Only to be called in a decode child (`imaging_core.dicom.child`).
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from PIL import Image
from pydicom import Dataset
from pydicom.dataelem import DataElement
from pydicom.encaps import get_frame

from imaging_core.dicom.part10 import file_meta, open_part10
from imaging_core.dicom.pixels import Window, decode, render, stored_frame
from imaging_core.errors import Rejected

__all__ = ["MEDIA_TYPES", "Frames", "bulk_data", "frames", "metadata", "rendered"]

_BULK_VR = frozenset({"OB", "OW", "OF", "OD", "OL", "OV", "UN", "OB or OW"})
_BULK = 1024
_DEEPEST = 16
_EXPLICIT = "1.2.840.10008.1.2.1"
# PS3.18 Table 8.7.3-5: media types of compressed frames, by transfer syntax.
MEDIA_TYPES = {
    "1.2.840.10008.1.2.5": "image/dicom-rle",
    "1.2.840.10008.1.2.4.50": "image/jpeg",
    "1.2.840.10008.1.2.4.51": "image/jpeg",
    "1.2.840.10008.1.2.4.57": "image/jpeg",
    "1.2.840.10008.1.2.4.70": "image/jpeg",
    "1.2.840.10008.1.2.4.80": "image/jls",
    "1.2.840.10008.1.2.4.81": "image/jls",
    "1.2.840.10008.1.2.4.90": "image/jp2",
    "1.2.840.10008.1.2.4.91": "image/jp2",
    "1.2.840.10008.1.2.4.201": "image/jphc",
    "1.2.840.10008.1.2.4.202": "image/jphc",
    "1.2.840.10008.1.2.4.203": "image/jphc",
}


@dataclass(frozen=True)
class Frames:
    """Frames of one instance: their media type, transfer syntax and bytes."""

    media_type: str
    transfer_syntax: str
    parts: tuple[bytes, ...]


def metadata(data: bytes, bulk_url: str) -> dict[str, Any]:
    """Return the DICOM JSON model (PS3.18 Annex F) of the whole data set, bulk data by address.

    Parameters
    ----------
    data : bytes
        DICOM Part 10 file.
    bulk_url : str
        Address below which bulk data is had: ``<bulk_url>/<tag>[/<item>/<tag>]``.
    """
    dataset = open_part10(data)
    model = _model(dataset, bulk_url, 0)
    syntax = str(file_meta(data)[0].get("TransferSyntaxUID") or "")
    if syntax:
        model["00083002"] = {"vr": "UI", "Value": [syntax]}  # Available Transfer Syntax UID
    return dict(sorted(model.items()))


def _model(dataset: Dataset, url: str, depth: int) -> dict[str, Any]:
    if depth > _DEEPEST:
        raise Rejected("nested-too-deep", "metadata")
    out: dict[str, Any] = {}
    for tag in [element.tag for element in dataset.elements()]:
        name = f"{int(tag):08X}"
        try:
            element: DataElement = dataset[tag]
            if element.VR == "SQ":
                items = [_model(item, f"{url}/{name}/{number}", depth + 1) for number, item in enumerate(element.value)]
                out[name] = {"vr": "SQ", "Value": items}
            elif element.VR in _BULK_VR or isinstance(element.value, bytes):
                out[name] = {"vr": element.VR.split(" ")[0]}
                if element.value:
                    out[name]["BulkDataURI"] = f"{url}/{name}"
            else:
                out[name] = element.to_json_dict(None, _BULK)
        except (ValueError, TypeError, AttributeError, OverflowError, LookupError):
            continue  # a value that its representation can't hold: the file keeps it
    return out


def bulk_data(data: bytes, path: str) -> bytes:
    """Return the value of a bulk data element; encapsulated pixels with their fragments' items.

    Parameters
    ----------
    path : str
        ``<tag>[/<item>/<tag> ...]``, as metadata names it.

    Raises
    ------
    Rejected
        ``not-found``.
    """
    node: Any = open_part10(data)
    steps = path.split("/")
    if len(steps) > 2 * _DEEPEST or not len(steps) % 2 or not all(_is_step(step, at) for at, step in enumerate(steps)):
        raise Rejected("not-found", "no such bulk data")
    for at, step in enumerate(steps):
        if at % 2:
            if int(step) >= len(node):
                raise Rejected("not-found", "no such item")
            node = node[int(step)]
            continue
        if int(step, 16) not in node:
            raise Rejected("not-found", "no such element")
        element = node[int(step, 16)]
        node = element.value
        if (element.VR == "SQ") != (at < len(steps) - 1):
            raise Rejected("not-found", "no such bulk data")
    if not isinstance(node, bytes):
        raise Rejected("not-found", "the element has no bulk data")
    return node


def _is_step(step: str, at: int) -> bool:
    return re.fullmatch(r"[0-9]{1,6}" if at % 2 else r"[0-9A-F]{8}", step) is not None


def frames(data: bytes, numbers: Sequence[int], stored: bool) -> Frames:
    """Return frames, from 1: as they are stored, or uncompressed and little endian.

    Raises
    ------
    Rejected
        ``no-pixels``, ``not-found``, ``pixels-unreadable``.
    """
    dataset = open_part10(data)
    if "PixelData" not in dataset:
        raise Rejected("no-pixels", "the instance has no Pixel Data (7FE0,0010)")
    count = max(1, int(dataset.get("NumberOfFrames") or 1))
    if not all(1 <= number <= count for number in numbers):
        raise Rejected("not-found", f"frames are 1 to {count}")
    syntax = str(file_meta(data)[0].TransferSyntaxUID)
    try:
        if stored and dataset.file_meta.TransferSyntaxUID.is_encapsulated:
            parts = [get_frame(dataset.PixelData, number - 1, number_of_frames=count) for number in numbers]
            return Frames(MEDIA_TYPES.get(syntax, "application/octet-stream"), syntax, tuple(parts))
        native = tuple(_native(dataset, number - 1) for number in numbers)
    except (MemoryError, Rejected):
        raise
    except Exception as error:  # the decoders raise many types; all mean that the pixels can't be read
        raise Rejected("pixels-unreadable", type(error).__name__) from error
    return Frames("application/octet-stream", _EXPLICIT, native)


def _native(dataset: Dataset, frame: int) -> bytes:
    array = stored_frame(dataset, frame)
    if int(dataset.BitsAllocated) == 1:
        return np.packbits(array.astype(np.uint8).ravel(), bitorder="little").tobytes()
    kind = "i" if int(dataset.get("PixelRepresentation", 0)) and array.ndim == 2 else "u"
    if array.dtype.kind == "f":
        kind = "f"
    width = 1 if array.dtype.itemsize == 1 else int(dataset.BitsAllocated) // 8
    return array.astype(f"<{kind}{width}").tobytes()


def rendered(
    data: bytes,
    frame: int,
    media_type: Literal["image/jpeg", "image/png"],
    window: Window | None,
    viewport: tuple[int, int] | None,
    quality: int,
) -> bytes:
    """Return one frame, from 0, as a picture in the header's or another window, no larger than `viewport`."""
    picture = Image.fromarray(render(decode(data, frame), window))
    if viewport and (picture.width > viewport[0] or picture.height > viewport[1]):
        picture.thumbnail(viewport, Image.Resampling.LANCZOS)
    out = io.BytesIO()
    if media_type == "image/jpeg":
        picture.save(out, "JPEG", quality=quality)
    else:
        picture.save(out, "PNG", compress_level=1)
    return out.getvalue()
