"""Every kind of PNG and JPEG becomes pixels that are right, or a refusal that says why."""

from __future__ import annotations

import io
import struct
import subprocess
import zlib
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin
from pydicom import dcmread

from imaging_core.dicom.picture import read_picture
from imaging_core.dicom.secondary_capture import ImageFields, capture
from imaging_core.errors import Rejected

LIMIT = 100_000_000
RANDOM = np.random.default_rng(11)
GREY8 = RANDOM.integers(0, 255, (40, 61), dtype=np.uint8)
GREY12 = RANDOM.integers(0, 4095, (40, 61), dtype=np.uint16)
GREY16 = RANDOM.integers(0, 65535, (40, 61), dtype=np.uint16)
RGB8 = RANDOM.integers(0, 255, (40, 61, 3), dtype=np.uint8)
RGB16 = RANDOM.integers(0, 65535, (40, 61, 3), dtype=np.uint16)
ALPHA8 = RANDOM.integers(0, 255, (40, 61), dtype=np.uint8)
ALPHA16 = RANDOM.integers(0, 65535, (40, 61), dtype=np.uint16)


def saved(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def with_exif(jpeg: bytes, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010E] = "MARKER^PATIENT"
    block = exif.tobytes()
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + jpeg[2:]


def interlaced() -> bytes:
    """An Adam7 PNG (Pillow writes none): seven reduced images one after the other."""
    rows = []
    for y, x, dy, dx in (
        (0, 0, 8, 8),
        (0, 4, 8, 8),
        (4, 0, 8, 4),
        (0, 2, 4, 4),
        (2, 0, 4, 2),
        (0, 1, 2, 2),
        (1, 0, 2, 1),
    ):
        rows += [b"\0" + row.tobytes() for row in GREY8[y::dy, x::dx] if row.size]
    header = struct.pack(">IIBBBBB", 61, 40, 8, 0, 0, 0, 1)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"".join(rows))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def over_black(values: np.ndarray[Any, Any], alpha: np.ndarray[Any, Any], most: int) -> np.ndarray[Any, Any]:
    return np.round(values.astype(float) * alpha.astype(float) / most).astype(values.dtype)


ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
PALETTE = Image.fromarray(RGB8).quantize(32)

KINDS: list[tuple[str, bytes, np.ndarray[Any, Any], int]] = [
    ("grey PNG", saved(Image.fromarray(GREY8)), GREY8, 8),
    ("16-bit PNG", saved(Image.fromarray(GREY16)), GREY16, 16),
    ("RGB PNG", saved(Image.fromarray(RGB8)), RGB8, 8),
    ("palette PNG", saved(PALETTE), np.asarray(PALETTE.convert("RGB")), 8),
    ("1-bit PNG", saved(Image.fromarray(GREY8 > 127)), ((GREY8 > 127) * 255).astype(np.uint8), 8),
    ("interlaced PNG", interlaced(), GREY8, 8),
    ("PNG with ICC profile", saved(Image.fromarray(RGB8), icc_profile=ICC), RGB8, 8),
    ("PNG with text", saved(Image.fromarray(GREY8), pnginfo=PngImagePlugin.PngInfo()), GREY8, 8),
    ("grey in an RGB PNG", saved(Image.fromarray(np.dstack([GREY8] * 3))), GREY8, 8),
    ("grey in a 16-bit RGB PNG", imagecodecs.png_encode(np.dstack([GREY16] * 3)), GREY16, 16),
    ("16-bit RGB PNG", imagecodecs.png_encode(RGB16), (RGB16 >> 8).astype(np.uint8), 8),
    ("grey and alpha", saved(Image.fromarray(np.dstack([GREY8, ALPHA8]), "LA")), over_black(GREY8, ALPHA8, 255), 8),
    ("16-bit grey and alpha", imagecodecs.png_encode(np.dstack([GREY16, ALPHA16])),
     over_black(GREY16, ALPHA16, 65535), 16),
    ("RGB and alpha", saved(Image.fromarray(np.dstack([RGB8, ALPHA8]), "RGBA")),
     over_black(RGB8, ALPHA8[..., None], 255), 8),
    ("12-bit lossless JPEG", imagecodecs.ljpeg_encode(GREY12, bitspersample=12), GREY12, 12),
    ("16-bit lossless JPEG", imagecodecs.ljpeg_encode(GREY16, bitspersample=16), GREY16, 16),
    ("8-bit lossless JPEG", imagecodecs.jpeg_encode(GREY8, lossless=True), GREY8, 8),
    ("lossless JPEG, turned by EXIF", with_exif(imagecodecs.ljpeg_encode(GREY12, bitspersample=12), 6),
     np.rot90(GREY12, -1), 12),
]  # fmt: skip


@pytest.mark.requirement("D50")
@pytest.mark.parametrize(("data", "wanted", "bits"), [kind[1:] for kind in KINDS], ids=[kind[0] for kind in KINDS])
def test_values_are_kept_and_the_instance_is_valid(
    tmp_path: Path, request: pytest.FixtureRequest, data: bytes, wanted: np.ndarray[Any, Any], bits: int
) -> None:
    picture = read_picture(data, LIMIT)
    assert picture.bits == bits
    assert picture.pixels.dtype == wanted.dtype
    # what is flattened may be rounded either way; all else is exact
    assert np.abs(picture.pixels.astype(int) - wanted.astype(int)).max() <= int("alpha" in request.node.name)
    fields = ImageFields("P1", "19700101", "Żółć", given="Ελένη", sex="F", body_part="CHEST", view="PA")
    instance = capture(data, fields)
    assert b"MARKER" not in instance
    dataset = dcmread(io.BytesIO(instance))
    assert dataset.SpecificCharacterSet == "ISO_IR 192"
    assert dataset.PatientName == "Żółć^Ελένη"
    assert np.array_equal(dataset.pixel_array, picture.pixels)
    assert (dataset.BitsStored, dataset.HighBit) == (bits, bits - 1)
    assert "PixelSpacing" not in dataset
    assert "ImagerPixelSpacing" not in dataset
    file = tmp_path / "capture.dcm"
    file.write_bytes(instance)
    done = subprocess.run(["dciodvfy", str(file)], capture_output=True, text=True, check=False)
    assert [line for line in done.stderr.splitlines() if line.startswith("Error")] == []


@pytest.mark.requirement("D50")
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("deep", [False, True], ids=["8 bit", "12 bit"])
def test_orientation_is_applied_as_pillow_does(orientation: int, deep: bool) -> None:
    from PIL import ImageOps

    smooth = np.add.outer(np.arange(40) * 3, np.arange(61)).astype(np.uint8)
    plain = saved(Image.fromarray(smooth), "JPEG", quality=95)
    turned = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(with_exif(plain, orientation)))))
    if deep:
        data = with_exif(imagecodecs.ljpeg_encode(np.asarray(Image.open(io.BytesIO(plain))).astype(np.uint16) << 4,
                                                  bitspersample=12), orientation)  # fmt: skip
        assert np.array_equal(read_picture(data, LIMIT).pixels, turned.astype(np.uint16) << 4)
    else:
        assert np.array_equal(read_picture(with_exif(plain, orientation), LIMIT).pixels, turned)


def animation() -> bytes:
    frames = [Image.fromarray(GREY8), Image.fromarray(255 - GREY8)]
    return saved(frames[0], save_all=True, append_images=frames[1:])


def bomb(columns: int, rows: int, depth: int = 1) -> bytes:
    header = struct.pack(">IIBBBBB", columns, rows, depth, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def jpeg_bomb() -> bytes:
    data = bytearray(saved(Image.fromarray(GREY8), "JPEG"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", 65_000, 65_000)
    return bytes(data)


def cmyk() -> bytes:
    return saved(Image.fromarray(RANDOM.integers(0, 255, (8, 8, 4), dtype=np.uint8), "CMYK"), "JPEG")


def ycck() -> bytes:
    """A CMYK JPEG whose Adobe marker says YCCK."""
    data = cmyk()
    at = data.index(b"Adobe") + 11
    return data[:at] + b"\x02" + data[at + 1 :]


REFUSED: list[tuple[str, bytes, str]] = [
    ("no picture", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not-an-image"),
    ("only a signature", b"\x89PNG\r\n\x1a\n", "not-an-image"),
    ("PNG cut off", saved(Image.fromarray(GREY16))[:-300], "pixels-unreadable"),
    ("JPEG cut off", saved(Image.fromarray(RGB8), "JPEG")[:-300], "pixels-unreadable"),
    ("JPEG of markers only", b"\xff\xd8\xff\xe0\x00\x04ab", "pixels-unreadable"),
    ("JPEG whose marker runs past the end", b"\xff\xd8\xff\xc0\xff\xff\x08", "pixels-unreadable"),
    ("lossless JPEG cut off", imagecodecs.ljpeg_encode(GREY16, bitspersample=16)[:60], "pixels-unreadable"),
    ("CMYK", cmyk(), "colour-not-supported"),
    ("YCCK", ycck(), "colour-not-supported"),
    ("animation", animation(), "several-frames"),
    ("PNG bomb", bomb(50_000, 50_000), "too-many-pixels"),
    ("deep PNG bomb", bomb(60_000, 60_000, 16), "too-many-pixels"),
    ("longer than Rows can say", bomb(1, 70_000), "too-many-pixels"),
    ("JPEG bomb", jpeg_bomb(), "too-many-pixels"),
    ("no columns", bomb(0, 10), "pixels-unreadable"),
]


@pytest.mark.requirement("D45", "D50")
@pytest.mark.parametrize(("data", "code"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_refused(data: bytes, code: str) -> None:
    with pytest.raises(Rejected) as caught:
        read_picture(data, LIMIT)
    assert caught.value.code == code


@pytest.mark.requirement("D45")
@pytest.mark.parametrize("seed", range(60))
def test_a_damaged_picture_is_pixels_or_a_refusal(seed: int) -> None:
    random = np.random.default_rng(seed)
    originals = [data for _, data, _, _ in KINDS] + [saved(Image.fromarray(RGB8), "JPEG")]
    data = bytearray(originals[seed % len(originals)])
    for _ in range(int(random.integers(1, 8))):
        data[int(random.integers(0, len(data)))] = int(random.integers(0, 256))
    try:
        picture = read_picture(bytes(data), 1_000_000)
    except Rejected:
        return
    assert picture.pixels.size <= 3_000_000
