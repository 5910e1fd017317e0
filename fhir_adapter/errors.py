"""Failures of the FHIR service, typed: what may be tried again, what may not, what somebody else has changed.

The text of an OperationOutcome is of use to whoever repairs the fault, and may quote a patient's name or
number. So it is kept with quoted values, numbers and every word of the request's own identifying elements
blotted out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from imaging_core.errors import Permanent, Retryable

__all__ = ["FhirPermanent", "FhirRetryable", "OutcomeIssue", "PreconditionFailed", "outcome_issues", "outcome_text"]

_BLOT = "…"
_LIMIT = 400
_QUOTED = re.compile(r"\"[^\"]*\"|'[^']*'|`[^`]*`|«[^»]*»|“[^”]*”")
_NUMBER = re.compile(r"\S*\d[\d./:-]{2,}\S*|\S*\d{3,}\S*")
_WORD = re.compile(r"\w{2,}")
_IDENTIFYING = frozenset(
    {"name", "identifier", "birthDate", "address", "telecom", "contact", "description", "text", "display", "note"}
)


@dataclass(frozen=True)
class OutcomeIssue:
    """One issue of an OperationOutcome, without PHI.

    Parameters
    ----------
    severity, code : str
        As the service gives them.
    expression : str
        Elements that it is about, comma-separated.
    text : str
        What the service says, blotted.
    """

    severity: str
    code: str
    expression: str
    text: str


class FhirRetryable(Retryable):
    """The FHIR service is away, busy or in conflict; the same call may succeed later.

    Parameters
    ----------
    detail : str
        What was asked and what came back, without PHI.
    status : int
        HTTP status, 0 where no answer came.
    retry_after : float
        Seconds that the service asked to wait.
    issues : tuple of OutcomeIssue
        Of its OperationOutcome.
    """

    def __init__(
        self, detail: str = "", status: int = 0, retry_after: float = 0.0, issues: tuple[OutcomeIssue, ...] = ()
    ) -> None:
        super().__init__("fhir-unavailable", detail, retry_after)
        self.status = status
        self.issues = issues

    def __reduce__(self) -> tuple[type[FhirRetryable], tuple[str, int, float, tuple[OutcomeIssue, ...]]]:  # type: ignore[override]  # other arguments
        """Pickle with this class's own arguments."""
        return (type(self), (self.detail, self.status, self.retry_after, self.issues))


class FhirPermanent(Permanent):
    """The FHIR service refuses the call, and will refuse it again; parameters as those of `FhirRetryable`."""

    def __init__(self, detail: str = "", status: int = 0, issues: tuple[OutcomeIssue, ...] = ()) -> None:
        super().__init__("fhir-refused", detail)
        self.status = status
        self.issues = issues

    def __reduce__(self) -> tuple[type[FhirPermanent], tuple[str, int, tuple[OutcomeIssue, ...]]]:  # type: ignore[override]  # other arguments
        """Pickle with this class's own arguments."""
        return (type(self), (self.detail, self.status, self.issues))


class PreconditionFailed(Retryable):
    """412: the resource has another version than the one that was read.

    The machine reads, merges and writes again; a person's act that meets it is shown to the person.
    """

    def __init__(self, detail: str = "") -> None:
        super().__init__("precondition-failed", detail)

    def __reduce__(self) -> tuple[type[PreconditionFailed], tuple[str]]:  # type: ignore[override]  # other arguments
        """Pickle with this class's own arguments."""
        return (type(self), (self.detail,))


def outcome_issues(body: object, request: object = None) -> tuple[OutcomeIssue, ...]:
    """Return the issues of an OperationOutcome, without PHI.

    Parameters
    ----------
    body : bytes or dict
        Body of the error answer, or the resource; whatever is no OperationOutcome has no issues.
    request : object
        What was sent (JSON); words of its identifying elements are blotted out.
    """
    outcome = body
    if isinstance(body, bytes):
        try:
            outcome = json.loads(body)
        except ValueError:
            return ()
    if not isinstance(outcome, dict) or outcome.get("resourceType") != "OperationOutcome":
        return ()
    issues = outcome.get("issue")
    if not isinstance(issues, list):
        return ()
    secret = {word.casefold() for text in _identifying(request) for word in _WORD.findall(text)}
    return tuple(_issue(issue, secret) for issue in issues if isinstance(issue, dict))


def outcome_text(issues: Iterable[OutcomeIssue]) -> str:
    """Return issues in one line."""
    parts = (" ".join(part for part in (item.code, item.expression, item.text) if part) for item in issues)
    return "; ".join(part for part in parts if part)[:_LIMIT]


def _issue(issue: dict[str, object], secret: set[str]) -> OutcomeIssue:
    details = issue.get("details")
    said = issue.get("diagnostics") or (details.get("text") if isinstance(details, dict) else "") or ""
    where = issue.get("expression") or issue.get("location") or []
    path = ",".join(str(item) for item in where) if isinstance(where, list) else ""
    text = _NUMBER.sub(_BLOT, _QUOTED.sub(_BLOT, str(said)))
    text = _WORD.sub(lambda match: _BLOT if match.group().casefold() in secret else match.group(), text)
    return OutcomeIssue(str(issue.get("severity") or ""), str(issue.get("code") or ""), path, text)


def _identifying(node: object, inside: bool = False) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _identifying(value, (inside or key in _IDENTIFYING) and key not in ("system", "use", "url"))
    elif isinstance(node, str):
        if inside:
            yield node
    elif isinstance(node, Iterable):
        for item in node:
            yield from _identifying(item, inside)
