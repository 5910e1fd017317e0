"""The ICC profile that a de-identified copy carries: sRGB, for a device's own has text in it and tells the device."""

from __future__ import annotations

from PIL import ImageCms

__all__ = ["SRGB"]

_MADE: bytes = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
# bytes 24 to 35 are the time at which the library made it (ICC.1 7.2.1): the same copy is the same bytes
SRGB: bytes = _MADE[:24] + bytes.fromhex("07d000010001000000000000") + _MADE[36:]
