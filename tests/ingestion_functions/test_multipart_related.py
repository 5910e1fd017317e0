"""Splitting ``multipart/related`` bodies: what delimits and what does not (RFC 2046 5.1)."""

from __future__ import annotations

import contextlib
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imaging_core.errors import Rejected
from ingestion_functions.multipart_related import split

PIXELS = bytes(range(256))


def contents(body: bytes, boundary: str = "XX", most: int = 100) -> list[bytes]:
    return [bytes(part.content) for part in split(body, boundary, most)]


READABLE: list[tuple[str, bytes, list[bytes]]] = [
    ("plain", b"--XX\r\nA: b\r\n\r\none\r\n--XX\r\n\r\ntwo\r\n--XX--\r\n", [b"one", b"two"]),
    ("no line end at the end", b"--XX\r\n\r\none\r\n--XX--", [b"one"]),
    ("preamble", b"read me\r\n--XXY no\r\n\r\n--XX\r\n\r\none\r\n--XX--", [b"one"]),
    ("preamble that names the boundary", b"the boundary is --XX, look\r\n--XX\r\n\r\none\r\n--XX--", [b"one"]),
    ("epilogue", b"--XX\r\n\r\none\r\n--XX--\r\nbye\r\n--XX\r\n\r\nignored\r\n--XX--", [b"one"]),
    ("blanks behind the boundary", b"--XX \t\r\n\r\none\r\n--XX-- \r\n", [b"one"]),
    ("LF only", b"--XX\nA: b\n\none\n--XX\n\ntwo\n--XX--\n", [b"one", b"two"]),
    ("boundary in the content", b"--XX\r\n\r\na--XX\r\nb--XX--c\r\n--XX--", [b"a--XX\r\nb--XX--c"]),
    ("LF before a boundary in a CRLF body", b"--XX\r\n\r\na\n--XX\r\nb\r\n--XX--", [b"a\n--XX\r\nb"]),
    ("longer boundary in the content", b"--XX\r\n\r\na\r\n--XXX\r\nb\r\n--XX--", [b"a\r\n--XXX\r\nb"]),
    ("delimiter in the content, length told", b"--XX\r\nContent-Length: 13\r\n\r\na\r\n--XX\r\n\r\nbc\r\n--XX--",
     [b"a\r\n--XX\r\n\r\nbc"]),
    ("length that lies", b"--XX\r\nContent-Length: 99\r\n\r\none\r\n--XX\r\nContent-Length: 1\r\n\r\ntwo\r\n--XX--",
     [b"one", b"two"]),
    ("length that is none", b"--XX\r\nContent-Length: -3\r\n\r\none\r\n--XX--", [b"one"]),
    ("empty part", b"--XX\r\nA: b\r\n\r\n\r\n--XX--", [b""]),
    ("part without content", b"--XX\r\nA: b\r\n--XX--", [b""]),
    ("part without anything", b"--XX\r\n--XX--", [b""]),
    ("binary", b"--XX\r\n\r\n" + PIXELS + b"\r\n--XX--", [PIXELS]),
]  # fmt: skip


@pytest.mark.requirement("D10")
@pytest.mark.parametrize(("body", "wanted"), [case[1:] for case in READABLE], ids=[case[0] for case in READABLE])
def test_parts(body: bytes, wanted: list[bytes]) -> None:
    assert contents(body) == wanted


def test_headers_are_read_with_folded_lines() -> None:
    head = b'Content-Type: application/dicom;\r\n  transfer-syntax="1.2.840.10008.1.2.1"\r\nX : y'
    body = b"--XX\r\n" + head + b"\r\n\r\none\r\n--XX--"
    (part,) = split(body, "XX", 1)
    assert part.headers["content-type"] == 'application/dicom; transfer-syntax="1.2.840.10008.1.2.1"'
    assert part.headers["x"] == "y"


BROKEN: list[tuple[str, bytes, str, str]] = [
    ("no boundary named", b"--XX\r\n\r\none\r\n--XX--", "", "bad-multipart"),
    ("boundary absent", b"one", "XX", "bad-multipart"),
    ("only the closing one", b"--XX--\r\n", "XX", "bad-multipart"),
    ("cut off in the content", b"--XX\r\n\r\none", "XX", "bad-multipart"),
    ("cut off in the delimiter", b"--XX\r\n\r\none\r\n--X", "XX", "bad-multipart"),
    ("cut off before the dashes", b"--XX\r\n\r\none\r\n--XX", "XX", "bad-multipart"),
    ("cut off between the dashes", b"--XX\r\n\r\none\r\n--XX-", "XX", "bad-multipart"),
    ("not ASCII", b"--XX\r\n\r\none\r\n--XX--", "\u20ac", "bad-multipart"),
    ("boundary too long", b"x", "X" * 300, "bad-multipart"),
    ("endless headers", b"--XX\r\nA: " + b"b" * 20_000 + b"\r\n\r\none\r\n--XX--", "XX", "bad-multipart"),
    ("too many", b"--XX\r\n\r\none\r\n" * 101 + b"--XX--", "XX", "too-many-parts"),
]  # fmt: skip


@pytest.mark.requirement("D10", "D45")
@pytest.mark.parametrize(("body", "boundary", "code"), [case[1:] for case in BROKEN], ids=[case[0] for case in BROKEN])
def test_refused(body: bytes, boundary: str, code: str) -> None:
    with pytest.raises(Rejected) as caught:
        split(body, boundary, 100)
    assert caught.value.code == code


@given(st.lists(st.binary(max_size=60), min_size=1, max_size=6), st.sampled_from([b"\r\n", b"\n"]))
def test_what_is_joined_comes_apart_again(files: list[bytes], line: bytes) -> None:
    boundary = b"Zq7"
    if any(boundary in file for file in files):
        return
    body = b"".join(b"--" + boundary + line + b"A: b" + line * 2 + file + line for file in files)
    assert contents(body + b"--" + boundary + b"--" + line, "Zq7") == files


@given(st.binary(max_size=200))
def test_any_body_is_split_or_refused(body: bytes) -> None:
    with contextlib.suppress(Rejected):
        assert contents(b"--X" + body, "X")


@pytest.mark.requirement("D45")
def test_no_part_is_copied() -> None:
    body = b"--XX\r\n\r\n" + bytes(20_000_000) + b"\r\n--XX--"
    tracemalloc.start()
    try:
        parts = split(body, "XX", 10)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert parts[0].content.obj is body
    assert most < 100_000
