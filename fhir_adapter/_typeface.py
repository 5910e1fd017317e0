"""Fonts of the readable report: which font writes which letter, and how wide a line is.

Western European text is set in Helvetica, which every PDF reader has. Other alphabets (Latin of Central Europe and
Turkey, Cyrillic, Greek, Georgian, Hebrew, Arabic, Thai, Devanagari) are set in FiraGO (SIL Open Font License, from the
package pymupdf-fonts), of which the letters used are embedded; Chinese, Japanese and Korean in the CID fonts that PDF
readers bring (ISO 32000-1 9.7.5.2). Hebrew and Arabic run from right to left; Arabic letters are not joined.
"""

from __future__ import annotations

import functools
import io
import threading
import unicodedata
from collections.abc import Iterator

__all__ = ["Run", "runs", "width", "wrapped"]

Run = tuple[str, str]
"""Name of a font and the text that it writes."""

_WIDE = {"Helvetica": "FiraGO", "Helvetica-Bold": "FiraGO-Bold"}
_FACES = {"FiraGO": "figo", "FiraGO-Bold": "figbo"}
# tried in this order: each has the characters of its legacy encoding
_EAST = (("HeiseiKakuGo-W5", "shift_jis"), ("STSong-Light", "gbk"), ("MSung-Light", "big5"))
_KOREAN = "HYGothic-Medium"
_LOCK = threading.Lock()


def runs(text: str, font: str) -> list[Run]:
    """Return `text` in visual order, cut where another font has to take over.

    Parameters
    ----------
    font : str
        ``Helvetica`` or ``Helvetica-Bold``.
    """
    if _western(text):
        return [(font, text)]
    wide = _WIDE[font]
    found: list[Run] = []
    for char in _visual(unicodedata.normalize("NFC", text)):
        if unicodedata.category(char) in ("Cf", "Cc"):
            continue  # direction marks and the like have no shape
        # a blank is written by the font that is at work
        face = found[-1][0] if char == " " and found else _face(char, wide)
        shown = char if face else "?"
        face = face or wide
        if found and found[-1][0] == face:
            found[-1] = (face, found[-1][1] + shown)
        else:
            found.append((face, shown))
    return found


def width(text: str, font: str, size: float) -> float:
    """Return the width of a line in points."""
    from reportlab.pdfbase.pdfmetrics import stringWidth

    return float(sum(stringWidth(part, face, size) for face, part in runs(text, font)))


def wrapped(text: str, font: str, size: float, space: float) -> Iterator[str]:
    """Yield the lines of a paragraph that are no wider than `space`; a word that is too long alone is cut."""
    if text.strip() and width(text, font, size) <= space:
        yield text.strip()
        return
    line = ""
    for word in text.split():
        whole = f"{line} {word}" if line else word
        if width(whole, font, size) <= space:
            line = whole
            continue
        if line:
            yield line
        while width(word, font, size) > space:
            fits = next((n for n in range(len(word) - 1, 1, -1) if width(word[:n], font, size) <= space), 1)
            yield word[:fits]
            word = word[fits:]
        line = word
    if line:
        yield line


def _western(text: str) -> bool:
    try:
        text.encode("cp1252")
    except UnicodeEncodeError:
        return False
    return True


def _face(char: str, wide: str) -> str:
    """Return the font that has a letter; empty: none has it."""
    if ord(char) in _letters(wide):
        return wide
    if "HANGUL" in unicodedata.name(char, ""):
        return _registered_east(_KOREAN)
    for face, encoding in _EAST:
        try:
            char.encode(encoding)
        except UnicodeEncodeError:
            continue
        return _registered_east(face)
    return ""


def _visual(text: str) -> str:
    """Return a line in the order in which it is seen: stretches of right-to-left letters turned round."""
    if not any(unicodedata.bidirectional(char) in ("R", "AL") for char in text):
        return text
    shown: list[str] = []
    stretch: list[str] = []
    for char in text:
        kind = unicodedata.bidirectional(char)
        if kind in ("R", "AL", "NSM") or (stretch and kind in ("WS", "CS", "ON")):
            stretch.append(char)
            continue
        shown.extend(_turned(stretch))
        stretch = []
        shown.append(char)
    return "".join([*shown, *_turned(stretch)])


def _turned(stretch: list[str]) -> list[str]:
    """Turn a stretch round; blanks at its end stay where they are."""
    kept = len("".join(stretch).rstrip())
    return [*reversed(stretch[:kept]), *stretch[kept:]]


@functools.cache
def _letters(face: str) -> frozenset[int]:
    """Make a font of FiraGO known to reportlab and return its code points."""
    from pymupdf_fonts import fontbuffers  # type: ignore[import-untyped]  # it ships no types
    from reportlab.pdfbase.pdfmetrics import registerFont
    from reportlab.pdfbase.ttfonts import TTFont

    with _LOCK:
        font = TTFont(face, io.BytesIO(fontbuffers[_FACES[face]]()))
        registerFont(font)
    return frozenset(font.face.charToGlyph)


@functools.cache
def _registered_east(face: str) -> str:
    from reportlab.pdfbase.cidfonts import UnicodeCIDFont
    from reportlab.pdfbase.pdfmetrics import registerFont

    with _LOCK:
        registerFont(UnicodeCIDFont(face))
    return face
