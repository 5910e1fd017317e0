"""The form's rows: what is on record, what the reader has chosen, what somebody else has changed meanwhile."""

from __future__ import annotations

from dataclasses import dataclass

from clinician_app.report import Finding, Report
from clinician_app.signoff_draft import Draft

__all__ = ["FormRow", "changed_findings", "form_rows"]

STATES = ("present", "absent", "indeterminate")


@dataclass(frozen=True)
class FormRow:
    """One finding in the form.

    Parameters
    ----------
    finding : Finding
        As it is on record now.
    chosen : str
        State to be selected: ``unchanged`` for one that is none of the three.
    severity : str
        Severity to be selected.
    seen : str
        What the reader was shown before somebody changed it; '' where nobody did.
    """

    finding: Finding
    chosen: str
    severity: str
    seen: str = ""


def form_rows(report: Report, draft: Draft) -> list[FormRow]:
    """Return a row for each finding of the report as it is now, with what the draft's author had chosen."""
    rows = []
    for finding in report.findings:
        seen = draft.seen.get(finding.id, finding.state)
        said = draft.findings.get(finding.id)
        chosen = said.state if said else seen
        severity = (said.severity or "") if said else finding.severity
        rows.append(
            FormRow(
                finding,
                chosen if chosen in STATES else "unchanged",
                severity,
                seen if seen != finding.state and draft.version != report.version else "",
            )
        )
    return rows


def changed_findings(report: Report, draft: Draft) -> bool:
    """Whether findings came or went since the draft's author was shown the report."""
    return bool(draft.seen) and set(draft.seen) != {item.id for item in report.findings}
