from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.uid import JPEGLSLossless, RLELossless

from ai_container.analyser import Analyser
from ai_container.image_analysis import Timings
from ai_container.preprocess import SIDE, _rendered, harmonise, prepare_dicom, prepare_display
from imaging_core.dicom.child import DecodePool
from imaging_core.dicom.pixels import decode, render
from imaging_core.dicom.secondary_capture import ImageFields, capture
from imaging_core.errors import Rejected
from tests.ai_container.conftest import changed, sample, saved

GOLDEN_CHEST = [0.46931, 0.94244, 0.95684, 0.95316, 0.74852, 0.21763]
GOLDEN = [0.36336, 0.01365, 0.52206, 0.37236, 1.0, 0.50921, 0.19778]


def scene(rows: int, columns: int) -> npt.NDArray[np.float32]:
    """A smooth picture: the same at every size."""
    y, x = np.mgrid[0:rows, 0:columns]
    y, x = (y + 0.5) / rows, (x + 0.5) / columns
    return np.asarray(100 + 50 * np.sin(5 * x) * np.cos(3 * y) + 40 * y, np.float32)


def png(display: npt.NDArray[np.generic]) -> bytes:
    out = io.BytesIO()
    Image.fromarray(display).save(out, "PNG")
    return out.getvalue()


def test_golden() -> None:
    """Numbers that must not move: weights are worth nothing with another preprocessing."""
    grid = harmonise(scene(1000, 800))
    assert grid.shape == (SIDE, SIDE)
    assert grid.dtype == np.float32
    found = [grid[0, 0], grid[20, 200], grid[112, 112], grid[180, 40], grid[223, 223], grid.mean(), grid.std()]
    assert found == pytest.approx(GOLDEN, abs=2e-4)


@pytest.mark.parametrize("size", [(512, 512), (1024, 1024), (2000, 2500), (301, 299), (224, 224)])
def test_size_and_aspect_of_the_source_do_not_matter(size: tuple[int, int]) -> None:
    difference = np.abs(harmonise(scene(*size)) - harmonise(scene(1000, 800)))
    assert difference.max() < 0.02


def test_range_of_the_source_does_not_matter() -> None:
    values = scene(600, 500)
    assert np.allclose(harmonise(values), harmonise(values * 37 - 1000), atol=1e-4)


def test_small_detail_is_averaged_not_sampled() -> None:
    """A board of single pixels becomes grey, with no moiré."""
    board = np.indices((1792, 1792)).sum(0) % 2 * 255.0
    board[:, :200] = 0
    board[:, -200:] = 255
    grid = harmonise(board)[:, 60:160]
    assert grid.std() < 0.01
    assert 0.4 < grid.mean() < 0.6


def test_padding_does_not_count() -> None:
    values = scene(800, 800)
    valid = np.ones(values.shape, bool)
    valid[:, :200] = False
    padded = np.where(valid, values, 100_000.0)
    grid = harmonise(padded, valid)
    assert grid[:, 70:].max() == pytest.approx(1.0, abs=0.01)
    assert grid[:, :40].max() == 0.0


def test_an_empty_image_is_no_error() -> None:
    assert not harmonise(np.full((300, 300), 7.0)).any()


def score(analyser: Analyser, data: bytes) -> float:
    found = analyser.preview_dicom(data, None, Timings())
    return found.findings[0].probability


@pytest.mark.requirement("D25")
def test_monochrome1_and_its_inverse_score_alike(analyser: Analyser, chest: bytes) -> None:
    dataset = dcmread(io.BytesIO(chest))
    top = (1 << dataset.BitsStored) - 1
    turned = changed(
        chest,
        PixelData=(top - dataset.pixel_array).astype(dataset.pixel_array.dtype).tobytes(),
        PhotometricInterpretation="MONOCHROME2",
        WindowCenter=top - dataset.WindowCenter + 1,
    )
    assert score(analyser, turned) == pytest.approx(score(analyser, chest), abs=1e-3)


@pytest.mark.requirement("D25", "D28")
def test_dicom_and_the_png_of_its_display_score_alike(analyser: Analyser, chest: bytes) -> None:
    """What `POST /api/images` makes of the exported picture gives the DICOM file's score (asked: to 1e-3)."""
    picture = png(render(decode(chest)))
    fields = ImageFields(
        patient_id="1", birth_date="19400305", family="X", body_part="CHEST", view="PA", study_uid="1.2.3"
    )
    converted = changed(capture(picture, fields), StudyDate="20040826")
    assert score(analyser, converted) == pytest.approx(score(analyser, chest), abs=1e-5)


@pytest.mark.requirement("D25", "D28")
@pytest.mark.parametrize("syntax", [JPEGLSLossless, RLELossless], ids=["jpeg-ls", "rle"])
def test_the_archival_rendition_scores_alike(analyser: Analyser, chest: bytes, syntax: str) -> None:
    """Lossless, so the very same stored values: the score is equal, not merely close (asked: to 1e-3)."""
    dataset = dcmread(io.BytesIO(chest))
    dataset.compress(syntax, generate_instance_uid=False)
    assert dataset.file_meta.TransferSyntaxUID == syntax
    assert score(analyser, saved(dataset)) == score(analyser, chest)


def test_dicom_png_and_archival_rendition_are_the_same_input(chest: bytes) -> None:
    """One image by three ways gives the network one input; the goldens hold it to what the weights were trained on."""
    dataset = dcmread(io.BytesIO(chest))
    dataset.compress(JPEGLSLossless, generate_instance_uid=False)
    grid = prepare_dicom(chest).grid
    assert np.array_equal(prepare_dicom(saved(dataset)).grid, grid)
    shown = prepare_display(png(render(decode(chest))), 100_000_000).grid
    assert np.abs(shown - grid).max() < 1e-6
    found = [grid[30, 60], grid[112, 112], grid[180, 40], grid[200, 200], grid.mean(), grid.std()]
    assert found == pytest.approx(GOLDEN_CHEST, abs=2e-4)


def test_display_values_made_in_blocks_are_those_of_the_whole(chest: bytes) -> None:
    image = decode(chest)
    assert np.array_equal(_rendered(image), render(image))


@pytest.mark.parametrize("size", [(2000, 2500), (1794, 1794), (1955, 1841), (3000, 2400), (900, 900)])
def test_blocks_of_bytes_are_averaged_as_the_resize_would(size: tuple[int, int]) -> None:
    display = np.random.default_rng(4).integers(0, 256, size).astype(np.uint8)
    assert np.abs(harmonise(display) - harmonise(display.astype(np.float32))).max() < 1e-4


@pytest.mark.parametrize("name", ["RG1_UNCI.dcm", "RG1_J2KR.dcm"])
def test_lossless_encodings_score_alike(analyser: Analyser, chest: bytes, name: str) -> None:
    assert score(analyser, sample(name)) == pytest.approx(score(analyser, chest), abs=2e-3)


def test_pictures_are_bounded(decoder: DecodePool) -> None:
    with pytest.raises(Rejected, match="too-many-pixels"):
        decoder.run(prepare_display, png(np.zeros((2000, 2000), np.uint8)), 1_000_000)
    with pytest.raises(Rejected, match="not-an-image"):
        decoder.run(prepare_display, b"GIF89a", 1_000_000)
    with pytest.raises(Rejected, match="pixels-unreadable"):
        decoder.run(prepare_display, png(np.zeros((200, 200), np.uint8))[:60], 1_000_000)
