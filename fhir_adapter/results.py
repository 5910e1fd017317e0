"""Publishing an analysis: DiagnosticReport, Observations, Media, Provenance and the model's Device (R1-R9)."""

from __future__ import annotations

from fhir_adapter.findings import AnalysisResult, Finding, InputImage, ModelInfo, NotAnalysed, PerImage

__all__ = ["AnalysisResult", "Finding", "InputImage", "ModelInfo", "NotAnalysed", "PerImage"]
