from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from ai_container.calibration import DecisionRule
from ai_container.heatmap import colour, map_npy, overlay_png

RULE = DecisionRule(scale=1.0, offset=0.0, threshold=0.5, low=0.3, high=0.6)


@pytest.mark.requirement("R2", "R3")
@pytest.mark.parametrize(
    ("probability", "state"),
    [
        (0.0, "absent"),
        (0.2999, "absent"),
        (0.3, "indeterminate"),
        (0.5, "indeterminate"),  # uncertain is never turned into present
        (0.5999, "indeterminate"),
        (0.6, "present"),
        (1.0, "present"),
    ],
)
def test_state(probability: float, state: str) -> None:
    assert RULE.state(probability) == state


def test_probability_is_monotone_and_bounded() -> None:
    found = [RULE.probability(logit) for logit in (-1e9, -3, 0, 3, 1e9)]
    assert found == sorted(found)
    assert found[2] == 0.5
    assert 0 <= found[0] < 1e-20
    assert found[-1] == 1.0


@pytest.mark.parametrize("limits", [(0.6, 0.5, 0.7), (0.3, 0.8, 0.7), (-0.1, 0.5, 0.7)])
def test_a_band_that_does_not_hold_the_threshold_is_refused(limits: tuple[float, float, float]) -> None:
    low, threshold, high = limits
    with pytest.raises(ValueError, match="low"):
        DecisionRule(1.0, 0.0, threshold, low, high)


@pytest.mark.parametrize(("rows", "columns"), [(2500, 2000), (1000, 3000), (300, 200)])
def test_overlay_lies_on_the_image_grid(rows: int, columns: int) -> None:
    strength = np.zeros((14, 14), np.float32)
    strength[2, 11] = 1.0
    with Image.open(io.BytesIO(overlay_png(strength, rows, columns))) as picture:
        assert max(picture.size) <= 512
        assert picture.width / picture.height == pytest.approx(columns / rows, rel=0.01)
        alpha = np.asarray(picture.convert("RGBA").getchannel("A"))
    y, x = np.unravel_index(alpha.argmax(), alpha.shape)
    assert y / alpha.shape[0] == pytest.approx(2.5 / 14, abs=0.05)
    assert x / alpha.shape[1] == pytest.approx(11.5 / 14, abs=0.05)
    assert alpha[-1, 0] == 0  # where nothing was seen, the image shows through


def test_colours_rise_in_lightness_and_need_no_red_green_vision() -> None:
    shades = colour(np.linspace(0, 1, 50, dtype=np.float32)).astype(float)
    lightness = shades @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(lightness) > -0.5).all()
    blue_yellow = shades[:, 2] - (shades[:, 0] + shades[:, 1]) / 2
    assert blue_yellow[0] > 40
    assert blue_yellow[-1] < -100


def test_map_as_numbers_comes_back() -> None:
    strength = np.linspace(0, 1, 196, dtype=np.float32).reshape(14, 14)
    assert np.array_equal(np.load(io.BytesIO(map_npy(strength))), strength)
