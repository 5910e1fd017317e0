"""Pixels: the same values as decoded, the heatmap, and what happens when something is missing."""

from __future__ import annotations

import io
import json
import zlib

import numpy as np
import pytest
from PIL import Image
from pydicom.data import get_testdata_file

from clinician_app.pixel_frames import frame_bytes
from imaging_core.blobs import BlobStore
from imaging_core.dicom.pixels import decode
from tests.clinician_app.conftest import MARIES_BRAIN, MARIES_CHEST, MARIES_REPORT, Clinic
from tests.clinician_app.made_up_chart import CHEST, MadeUpStudy, real_file


def _address(launch: str, study: MadeUpStudy, index: int = 0) -> str:
    return f"{launch}/studies/{study.uid}/series/{study.series_uid}/instances/{study.sop_uid(index)}"


def test_rendered_and_thumbnail(clinic: Clinic) -> None:
    launch = clinic.launch()
    sizes = []
    for query in ("", "?max=144", "?max=77", "?frame=1"):
        answer = clinic.get(f"{_address(launch, MARIES_CHEST)}/rendered{query}")
        assert answer.mimetype == "image/png"
        assert answer.headers["Cache-Control"] == "no-store"
        sizes.append(Image.open(io.BytesIO(answer.data)).size)
    assert sizes == [(1841, 1955), (136, 144), (1841, 1955), (1841, 1955)]


@pytest.mark.parametrize("frame", ["2", "0", "-1", "x", "1e3", "99999999999", "%00", "²"])
def test_no_such_frame(clinic: Clinic, frame: str) -> None:
    answer = clinic.get(f"{_address(clinic.launch(), MARIES_CHEST)}/pixels?frame={frame}")
    assert answer.status_code == 404
    assert answer.mimetype == "application/problem+json"


@pytest.mark.requirement("D25")
def test_values_are_the_decoded_ones(clinic: Clinic) -> None:
    answer = clinic.get(f"{_address(clinic.launch(), MARIES_CHEST)}/pixels")
    told = json.loads(answer.headers["X-Frame"])
    assert answer.headers["Content-Encoding"] == "deflate"
    values = np.frombuffer(zlib.decompress(answer.data), "<u2").reshape(told["rows"], told["columns"])
    image = decode(real_file(CHEST))
    assert np.array_equal(values * told["slope"] + told["intercept"], image.values)
    assert told["inverted"] is True  # MONOCHROME1, turned by the viewer and not in the values
    assert (told["center"], told["width"]) == (image.windows[0].center, image.windows[0].width)
    assert told["padding"] is None


@pytest.mark.requirement("D27", "D30")
@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small.dcm", "693_UNCI.dcm", "emri_small.dcm", "rtdose.dcm"])
def test_any_grey_image_survives_within_half_a_step(name: str) -> None:
    path = get_testdata_file(name)
    assert isinstance(path, str)
    with open(path, "rb") as file:
        data = file.read()
    description, deflated = frame_bytes(data)
    told = json.loads(description)
    values = np.frombuffer(zlib.decompress(deflated), "<u2").reshape(told["rows"], told["columns"]).astype(np.float64)
    image = decode(data)
    if told["padding"] is not None:
        assert np.array_equal(values == told["padding"], ~image.valid)
    error = np.abs(values * told["slope"] + told["intercept"] - image.values)[image.valid]
    assert (
        error.max() <= max(0.51 * told["slope"], np.abs(image.values).max() * 1e-6)
        if told["slope"] != 1.0
        else error.max() == 0
    )
    assert told["width"] > 0


def test_a_colour_image_has_no_values_to_window() -> None:
    path = get_testdata_file("examples_rgb_color.dcm")
    assert isinstance(path, str)
    with open(path, "rb") as file:
        assert frame_bytes(file.read()) == ("", b"")


def test_heatmap(clinic: Clinic) -> None:
    answer = clinic.get(f"{clinic.launch()}/reports/{MARIES_REPORT.id}/heatmap.png")
    assert answer.status_code == 200
    alpha = Image.open(io.BytesIO(answer.data)).convert("RGBA").getextrema()[3]
    assert alpha[0] < alpha[1], "the image shows through it"


def test_a_missing_file_is_said_so(clinic: Clinic, blob_store: BlobStore) -> None:
    launch = clinic.launch()
    name = f"{MARIES_BRAIN.uid}/{MARIES_BRAIN.series_uid}/{MARIES_BRAIN.sop_uid()}.dcm"
    data = blob_store.get("images", name)
    blob_store.delete("images", name)
    try:
        answer = clinic.get(f"{_address(launch, MARIES_BRAIN)}/pixels")
        assert answer.status_code == 404
        assert answer.json["code"] == "blob-missing"
        assert MARIES_BRAIN.uid not in answer.text
        assert clinic.get(f"{launch}/studies/{MARIES_BRAIN.uid}").status_code == 200
    finally:
        blob_store.put("images", name, data)


@pytest.mark.requirement("D45")
def test_a_broken_file_is_a_typed_answer(clinic: Clinic, blob_store: BlobStore) -> None:
    name = f"{MARIES_CHEST.uid}/{MARIES_CHEST.series_uid}/{MARIES_CHEST.sop_uid(1)}.dcm"
    data = blob_store.get("images", name)
    blob_store.put("images", name, data[: len(data) // 2])
    try:
        answer = clinic.get(f"{_address(clinic.launch(), MARIES_CHEST, 1)}/rendered")
        assert answer.status_code in (400, 422)
        assert answer.json["code"] in ("pixels-unreadable", "truncated", "not-dicom")
    finally:
        blob_store.put("images", name, data)
