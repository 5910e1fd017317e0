"""Geometry of the drawn probability: a scale from 0 to 1 with threshold, band of abstention and value on it.

Drawn as SVG attributes on the server: the pages' CSP allows no inline style, and the page works without a script.
"""

from __future__ import annotations

from dataclasses import dataclass

from clinician_app.report import Finding

__all__ = ["ProbabilityScale", "draw"]

WIDTH = 320.0
_EDGE = 6.0
_LABEL_GAP = 30.0


@dataclass(frozen=True)
class ProbabilityScale:
    """Where things stand on the scale, in units of the SVG (0 to `width`)."""

    width: float
    left: float
    right: float
    value: float | None
    threshold: float | None
    band_start: float | None
    band_end: float | None

    @property
    def threshold_label(self) -> float | None:
        """Where the threshold's label is centred: kept inside the drawing."""
        if self.threshold is None:
            return None
        return min(max(self.threshold, self.left + _LABEL_GAP), self.right - _LABEL_GAP)

    @property
    def band_width(self) -> float:
        """Width of the band of abstention; 0 without one."""
        if self.band_start is None or self.band_end is None:
            return 0.0
        return round(self.band_end - self.band_start, 1)


def draw(finding: Finding) -> ProbabilityScale | None:
    """Return the scale of a finding, or None where there is no probability to draw."""
    if finding.probability is None:
        return None
    low, high = finding.band if finding.band else (None, None)
    return ProbabilityScale(
        WIDTH, _EDGE, WIDTH - _EDGE, _at(finding.probability), _at(finding.threshold), _at(low), _at(high)
    )


def _at(value: float | None) -> float | None:
    return None if value is None else round(_EDGE + value * (WIDTH - 2 * _EDGE), 1)
