"""What a person is about to do to a report, as typed: parsed once, shown in the preview, then carried out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, cast, get_args

from clinician_app.fhir_values import text
from clinician_app.report import Report
from fhir_adapter.severity import Severity
from fhir_adapter.signoff import Assessed, Assessment
from fhir_adapter.wording import phrase
from imaging_core.errors import Rejected

__all__ = ["REJECTIONS", "Act", "Draft", "Rejection", "acts_on", "draft_of_form", "first_draft"]

Act = Literal["sign", "amend", "correct", "reject"]
Rejection = Literal["poor-quality", "wrong-examination", "other"]
REJECTIONS: tuple[Rejection, ...] = get_args(Rejection)

_SIGNED = ("final", "amended", "corrected", "appended")
_OPEN = ("registered", "partial", "preliminary")
_LONGEST_WORDS = 8_000
_LONGEST_REASON = 1_000


@dataclass(frozen=True)
class Draft:
    """One act, not yet done.

    Parameters
    ----------
    act : {'sign', 'amend', 'correct', 'reject'}
        What is to become of the report.
    version : str
        Version of the report that the person saw.
    findings : mapping of str to Assessment
        What the person set, by the Observation's id; those left as they were are not in it.
    seen : mapping of str to str
        The state of each finding as it was shown, for telling what somebody else has changed since.
    conclusion : str
        The person's words; '': the findings in one line each.
    reason : str
        Why a signed report is changed, or the words of a rejection.
    rejection : str
        Kind of a rejection; '' otherwise.
    """

    act: Act
    version: str
    findings: Mapping[str, Assessment] = field(default_factory=dict)
    seen: Mapping[str, str] = field(default_factory=dict)
    conclusion: str = ""
    reason: str = ""
    rejection: Rejection | Literal[""] = ""

    def as_json(self) -> dict[str, Any]:
        """Return the draft as it is stored."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Draft:
        """Return the draft that `as_json` stored."""
        values = dict(stored)
        values["findings"] = {name: Assessment(**item) for name, item in values["findings"].items()}
        return cls(**values)


def acts_on(report: Report) -> tuple[Act, ...]:
    """Return what a person with the right may do to a report of this system in its present state."""
    if not report.automated or report.path is None:
        return ()
    if report.status in _OPEN:
        return ("sign", "reject")
    return ("amend", "correct") if report.status in _SIGNED else ()


def first_draft(report: Report, act: Act) -> Draft:
    """Return what the form shows before anything is typed."""
    seen = {item.id: item.state for item in report.findings}
    own_words = act in ("amend", "correct") and not _is_summary(report.conclusion)
    return Draft(act, report.version, {}, seen, report.conclusion if own_words else "")


def _is_summary(conclusion: str) -> bool:
    """Whether the words were made of the findings: kept, they would contradict a finding that is changed."""
    return any(phrase("made-with", language) in conclusion for language in ("en", "fr"))


def draft_of_form(form: Mapping[str, str], report: Report) -> Draft:
    """Parse the form; its findings are those that the form showed, which need not be the report's any more.

    Raises
    ------
    Rejected
        ``bad-field``: a value that the form does not offer, or a reason that is missing.
    """
    act = _one_of(form.get("act", ""), get_args(Act), "act")
    seen = {
        text(name.removeprefix("seen."), 64): text(value, 32)
        for name, value in form.items()
        if name.startswith("seen.") and len(name) <= 80
    }
    findings = {} if act == "reject" else {name: said for name in seen if (said := _assessment(form, name, seen[name]))}
    rejection = _one_of(form.get("rejection", ""), REJECTIONS, "rejection") if act == "reject" else ""
    reason = _words(form.get("reason", ""), _LONGEST_REASON)
    if not reason and (act in ("amend", "correct") or rejection == "other"):
        raise Rejected("missing-field", "reason")
    return Draft(
        cast(Act, act),
        text(form.get("version", ""), 64),
        findings,
        seen,
        "" if act == "reject" else _words(form.get("conclusion", ""), _LONGEST_WORDS),
        reason,
        cast("Rejection | Literal['']", rejection),
    )


def _assessment(form: Mapping[str, str], name: str, seen: str) -> Assessment | None:
    """Return what was set for a finding; None where it was left as it was shown."""
    state = form.get(f"state.{name}", "")
    severity = form.get(f"severity.{name}", "")
    if severity:
        _one_of(severity, get_args(Severity), "severity")
    if state in ("", "unchanged"):
        return None
    _one_of(state, get_args(Assessed), "state")
    if state == seen and severity == form.get(f"seen-severity.{name}", ""):
        return None
    kept = cast(Severity, severity) if severity and state == "present" else None
    return Assessment(cast(Assessed, state), kept)


def _one_of(value: str, choices: tuple[str, ...], name: str) -> str:
    if value not in choices:
        raise Rejected("bad-field", name)
    return value


def _words(value: str, limit: int) -> str:
    plain = value.replace("\r\n", "\n").replace("\r", "\n")
    if len(plain) > limit:
        raise Rejected("bad-field", f"longer than {limit} characters")
    return text(plain, limit)
