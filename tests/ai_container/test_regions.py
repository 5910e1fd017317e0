from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from ai_container.heatmap import colour, overlay_png
from ai_container.regions import regions

# Machado, Oliveira, Fernandes, "A physiologically-based model for simulation of color vision deficiency",
# IEEE TVCG 15(6), 2009: severity 1.0, in linear RGB.
DEFICIENCIES = {
    "none": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}


def lightness(colours: np.ndarray, deficiency: str) -> np.ndarray:
    """CIE L* of sRGB colours, as an eye with a deficiency sees them."""
    value = colours / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ DEFICIENCIES[deficiency].T, 0, 1)
    luminance = seen @ np.array([0.2126, 0.7152, 0.0722])
    return np.where(luminance > 216 / 24389, 116 * np.cbrt(luminance) - 16, luminance * 24389 / 27)


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
def test_the_colours_rise_evenly_in_lightness_for_every_eye(deficiency: str) -> None:
    steps = np.diff(lightness(colour(np.linspace(0, 1, 33, dtype=np.float32)), deficiency))
    assert (steps > 0).all()
    assert steps.max() < 4 * steps.mean()
    assert steps.sum() > 60


def test_a_region_is_a_box_and_an_outline_in_pixels_of_the_stored_image() -> None:
    strength = np.zeros((14, 14), np.float32)
    strength[2:5, 8:12] = 0.9  # rows 2 to 4 of 14, columns 8 to 11
    strength[10, 2] = 0.7
    first, second = regions(strength, rows=1400, columns=2800)
    assert first.score == pytest.approx(0.9)
    assert second.score == pytest.approx(0.7)
    assert (first.x, first.y, first.width, first.height) == pytest.approx((1600, 200, 800, 300), abs=60)
    assert first.area == pytest.approx(12 / 196, rel=0.2)
    outline = np.array(first.contour)
    assert (outline.min(0) == (first.x, first.y)).all()
    assert (outline.max(0) == (first.x + first.width, first.y + first.height)).all()
    x, y = outline.T
    enclosed = abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2
    assert enclosed / (1400 * 2800) == pytest.approx(first.area, rel=0.02)


def test_a_weak_map_has_no_region() -> None:
    assert regions(np.full((14, 14), 0.49, np.float32), 100, 100) == ()


def test_a_map_that_is_strong_everywhere_is_one_region() -> None:
    (region,) = regions(np.full((14, 14), 0.8, np.float32), rows=200, columns=100)
    assert (region.x, region.y, region.width, region.height) == (0, 0, 100, 200)
    assert region.contour == ((0, 0), (100, 0), (100, 200), (0, 200))


@pytest.mark.parametrize(("rows", "columns"), [(2000, 2500), (1955, 1841), (100, 60)])
def test_the_overlay_lies_on_the_image_edge_to_edge(rows: int, columns: int) -> None:
    strength = np.zeros((14, 14), np.float32)
    strength[0, 0] = strength[13, 13] = 1.0
    with Image.open(io.BytesIO(overlay_png(strength, rows, columns))) as picture:
        alpha = np.asarray(picture.convert("RGBA").getchannel("A"))
        assert picture.width / picture.height == pytest.approx(columns / rows, rel=0.01)
    assert alpha[0, 0] > 0
    assert alpha[-1, -1] > 0
    assert alpha[0, -1] == alpha[-1, 0] == 0
