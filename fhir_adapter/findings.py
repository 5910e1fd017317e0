"""What an analysis says, parsed once: the input of everything that is written about it (R1-R5)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from fhir_adapter.identity import dicom_uid
from fhir_adapter.terminology import SCT

__all__ = [
    "AnalysisResult",
    "Finding",
    "InputImage",
    "ModelInfo",
    "NotAnalysed",
    "PerImage",
    "State",
    "statement_digest",
]

State = Literal["present", "absent", "indeterminate", "not-assessed"]


@dataclass(frozen=True)
class ModelInfo:
    """A model version.

    Parameters
    ----------
    name, version : str
        For example ``chest-opacity`` and ``1.0.0``.
    sha256 : str
        Of the weights.
    manufacturer : str
        Who answers for it.
    title_en, title_fr : str
        What a doctor calls it; default: the name.
    model_card_url : str
        Where the model card is; empty where it is not published.
    udi : str
        Unique device identifier carrier, if any.
    summary_en, summary_fr : str
        Training data and limits in one or two sentences, for the report's last page.
    """

    name: str
    version: str
    sha256: str = ""
    manufacturer: str = ""
    title_en: str = ""
    title_fr: str = ""
    model_card_url: str = ""
    udi: str = ""
    summary_en: str = ""
    summary_fr: str = ""


@dataclass(frozen=True)
class PerImage:
    """The calibrated probability of one image (R2: a component, no report of its own)."""

    sop_uid: str
    probability: float


@dataclass(frozen=True)
class Finding:
    """What the model says of one finding in the study.

    Parameters
    ----------
    code : str
        Code of the finding in `system`.
    display : str
        The code's display.
    probability : float or None
        Calibrated, the largest of the study's images; None for ``not-assessed``.
    threshold : float or None
        Probability from which the finding counts as present.
    state : {'present', 'absent', 'indeterminate', 'not-assessed'}
        ``not-assessed`` writes an Observation with a data-absent reason (R3).
    system : str
        URI of the code system: SNOMED CT by default, or RadLex.
    key : str
        Short name that goes into the Observation's id, for example ``lung-opacity``; default: the code.
    text_en, text_fr : str
        What the report calls it; default: the display.
    body_site, body_site_display : str
        SNOMED CT code of the site; empty: none is written.
    per_image : tuple of PerImage
        Values of the single images.
    band : tuple of two floats or None
        Probabilities between which the state is indeterminate.
    """

    code: str
    display: str
    probability: float | None
    threshold: float | None
    state: State
    system: str = SCT
    key: str = ""
    text_en: str = ""
    text_fr: str = ""
    body_site: str = ""
    body_site_display: str = ""
    per_image: tuple[PerImage, ...] = ()
    band: tuple[float, float] | None = None

    @property
    def slug(self) -> str:
        """The finding's part of its Observation's role."""
        return self.key or self.code

    def text(self, language: str) -> str:
        """Return what a report in `language` calls the finding."""
        return (self.text_fr if language == "fr" else self.text_en) or self.display


@dataclass(frozen=True)
class NotAnalysed:
    """An image that the model did not look at.

    Parameters
    ----------
    reason : str
        ``no-model``, ``not-frontal``, ``age-unknown``, ``child``, ``out-of-distribution``, ``inverted`` ...
    """

    sop_uid: str
    reason: str


@dataclass(frozen=True)
class InputImage:
    """An image that was given to the model.

    Parameters
    ----------
    sha256 : str
        Of the stored instance, hexadecimal.
    analysed : bool
        Whether findings rest on it.
    """

    sop_uid: str
    series_uid: str
    sha256: str
    analysed: bool = True


@dataclass(frozen=True)
class AnalysisResult:
    """One analysis of one study by one model.

    Parameters
    ----------
    study_uid : str
        StudyInstanceUID.
    task : str
        For example ``chest-opacity``; part of every id.
    model : ModelInfo
        The model.
    findings : tuple of Finding
        Empty only where nothing was there to be analysed.
    not_analysed : tuple of NotAnalysed
        Images without a finding, with the reason.
    instances : tuple of InputImage
        What was given to the model.
    effective : str
        FHIR dateTime of the acquisition; empty: the ImagingStudy's ``started``.
    language : str
        ``en`` or ``fr``.
    site_name : str
        As the report shows it.
    created : str
        FHIR instant of the analysis; empty: now. It is no part of what the result says: the same result at another time
        changes nothing.
    modalities : tuple of str, body_part : str, portable : bool
        Decide the report's code.
    key_image : str
        SOP UID of the image that shows the finding best; empty: none.
    key_image_picture : bytes
        JPEG or PNG of the key image with the heatmap over it.
    report_without_model : bool
        Write a report even where no model was there for the examination (R3).
    not_assessed : tuple of (English, French)
        Findings that no model of the study looked for: silence on them must not read as their absence.
    """

    study_uid: str
    task: str
    model: ModelInfo
    findings: tuple[Finding, ...] = ()
    not_analysed: tuple[NotAnalysed, ...] = ()
    instances: tuple[InputImage, ...] = ()
    effective: str = ""
    language: str = "en"
    site_name: str = ""
    created: str = ""
    modalities: tuple[str, ...] = ()
    body_part: str = ""
    portable: bool = False
    key_image: str = ""
    key_image_picture: bytes = field(default=b"", repr=False)
    report_without_model: bool = False
    not_assessed: tuple[tuple[str, str], ...] = ()

    @property
    def assessed(self) -> bool:
        """Whether at least one finding was assessed."""
        return any(finding.state != "not-assessed" for finding in self.findings)

    @property
    def no_model(self) -> bool:
        """Whether no model was there for the examination."""
        reasons = {item.reason for item in self.not_analysed}
        return not self.assessed and bool(reasons) and reasons == {"no-model"}

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why images were not analysed, each reason once, in order of code."""
        return tuple(sorted({item.reason for item in self.not_analysed}))

    def revision_path(self, revision: int) -> str:
        """Return ``<study>/<task>/<revision>``: the report's identifier, and the folder of its files in `results`."""
        return f"{self.study_uid}/{self.task}/{revision}"

    def object_uid(self, role: str, revision: int) -> str:
        """Return the SOP Instance UID of a DICOM object that says the same (R8).

        The same statement by the same model of the same images is the same object, also where the arithmetic's last
        digits differ; anything else is another one, for an object that was sent is never altered.

        Parameters
        ----------
        role : str
            ``sr`` or ``sc``.
        """
        images = sorted((item.sop_uid, item.sha256) for item in self.instances)
        model = [self.model.name, self.model.version, self.model.sha256]
        text = json.dumps([self.statement(), model, images, self.key_image, self.language], separators=(",", ":"))
        digest = hashlib.sha256(text.encode()).hexdigest()
        return dicom_uid(self.study_uid, f"{role}:{self.task}:{digest}", revision)

    def statement(self) -> str:
        """Return the digest of what the result says: findings and states, or why nothing was analysed.

        Probabilities, time and model version are no part of it: a new report follows a signed one only where it says
        something else (R7).
        """
        said = [(item.system, item.code, item.state) for item in self.findings]
        return statement_digest(self.task, said, () if self.assessed else self.reasons)


def statement_digest(task: str, said: Iterable[tuple[str, str, str]], reasons: Iterable[str] = ()) -> str:
    """Return the digest of a statement: (system, code, state) of each finding, and why nothing was analysed."""
    text = json.dumps([task, sorted(said), list(reasons)], separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
