"""Sign-off within one launch: form, preview, confirmation; the model's original and what became of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from flask import Blueprint, Response, abort, g, make_response, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from clinician_app.chart import FRESH_FOR_PAGES
from clinician_app.examination import Examination, assemble
from clinician_app.launch_chart import LaunchChart, open_chart
from clinician_app.refusals import NotASigner
from clinician_app.report import Report, read_report
from clinician_app.result_file import load_report_file
from clinician_app.review_history import ReviewHistory, review_history
from clinician_app.services import Services, current_services
from clinician_app.signing import AUDIT_ACTS, NotKnown, SigningDesk, Write
from clinician_app.signing_panel import right_of
from clinician_app.signoff_draft import Act, Draft, acts_on, draft_of_form, first_draft
from clinician_app.signoff_form import changed_findings, form_rows
from clinician_app.translation import current_language, gettext
from clinician_app.user_writing import may_write, transaction_of
from clinician_app.views.page_values import page_values
from fhir_adapter.errors import PreconditionFailed
from fhir_adapter.signoff import Signer
from imaging_core.errors import ImagingError, Permanent, Rejected, Retryable, code
from imaging_core.telemetry import get_logger, trace_id
from smart_launch import LaunchSession

__all__ = ["signoff"]

signoff = Blueprint("signoff", __name__, url_prefix="/l/<launch_id>/reports/<report_id>")

_NOW = timedelta(0)


@dataclass(frozen=True)
class _Case:
    """A report of this system's, of the launch's patient, in front of a person who may sign it."""

    services: Services
    desk: SigningDesk
    launch: LaunchSession
    opened: LaunchChart
    report: Report
    signer: Signer

    @property
    def write(self) -> Write | None:
        """What writes with the person's own token, where that may."""
        if not may_write(self.launch, self.services.settings):
            return None
        return transaction_of(self.services.smart.fhir(self.launch), self.launch.fhir_base)

    def url(self, endpoint: str, form: str | None = None) -> str:
        """Return an address of this report's."""
        return url_for(endpoint, launch_id=self.launch.launch_id, report_id=self.report.id, form=form)


@signoff.get("/review")
def review(launch_id: str, report_id: str) -> ResponseReturnValue:
    """Show the form: for the act that ``?act=`` names, or as the draft of ``?form=`` left it."""
    case = _case(launch_id, report_id)
    stored = case.desk.journal.draft(request.args.get("form", ""), launch_id, report_id)
    draft = stored.draft if stored else None
    return _form(case, draft or first_draft(case.report, _asked_act(case)))


@signoff.post("/review")
def submit(launch_id: str, report_id: str) -> ResponseReturnValue:
    """Keep what was typed and show what would become of the report."""
    case = _case(launch_id, report_id)
    try:
        draft = draft_of_form(request.form, case.report)
    except Rejected as error:
        return _form(case, first_draft(case.report, _asked_act(case)), fault=error)
    form = case.desk.journal.issue(launch_id, report_id, draft)
    return redirect(case.url("signoff.preview", form), 303)


@signoff.get("/preview")
def preview(launch_id: str, report_id: str) -> ResponseReturnValue:
    """Show exactly what the act would make of the report; nothing is written."""
    case = _case(launch_id, report_id)
    form = request.args.get("form", "")
    stored = case.desk.journal.draft(form, launch_id, report_id)
    if stored is None:
        abort(404)
    if stored.draft is None or stored.begun:
        return redirect(case.url("pages.report_page"), 303)
    return _preview(case, stored.draft, form)


@signoff.post("/sign")
def confirm(launch_id: str, report_id: str) -> ResponseReturnValue:
    """Do what the preview showed, once."""
    case = _case(launch_id, report_id)
    form = request.form.get("form", "")
    journal = case.desk.journal
    stored = journal.draft(form, launch_id, report_id)
    if stored is None:
        abort(404)
    draft = stored.draft
    done = redirect(case.url("pages.report_page"), 303)
    if draft is None or stored.begun:
        return done  # a second press of the button: the first one does it, or did
    what = f"DiagnosticReport/{report_id}"
    event = case.services.audit.event(AUDIT_ACTS[draft.act], case.launch, case.opened.subject, what)
    _settle(case.desk)
    if not journal.begin(form, launch_id, report_id, event):
        return done
    try:
        case.desk.carry_out(form, report_id, draft, case.signer, case.write, event)
    except PreconditionFailed:
        return _conflict(case, draft)
    except NotKnown:
        _forget(case)
        return _not_known(case)
    except (Retryable, Permanent) as error:
        return _not_done(case, draft, error)
    _forget(case)
    return done


@signoff.get("/original")
def original(launch_id: str, report_id: str) -> ResponseReturnValue:
    """Show what the model said before any person acted, and who did what since."""
    services = current_services()
    launch = services.smart.require(launch_id)
    opened = open_chart(services, launch, FRESH_FOR_PAGES)
    report = opened.chart.report(report_id)
    if report is None or opened.files_of(report) is None or services.imaging is None:
        abort(404)
    services.audit.record("report-read", launch, opened.subject, f"DiagnosticReport/{report.id}")
    history = review_history(services.imaging, report.id, opened.subject)
    return render_template(
        "original.html",
        examination=_examination(services, opened, report),
        history=history,
        signing=None,
        priors=[],
        **page_values(services, launch, opened),
    )


def _case(launch_id: str, report_id: str) -> _Case:
    """Return what an act is about; the right is asked of the EHR now, and a refusal is put on record.

    Raises
    ------
    NotASigner
        The person may not.
    Retryable
        The report can't be read now: nobody signs what is out of date.
    """
    services = current_services()
    launch = services.smart.require(launch_id)
    opened = open_chart(services, launch, _NOW)
    report = opened.chart.report(report_id)
    if report is None or opened.files_of(report) is None or services.desk is None:
        abort(404)
    if opened.chart.stale or opened.chart.missing.get("findings"):
        raise Retryable("fhir-unavailable", "the report can't be read as it is now")
    right = right_of(services, launch, fresh=True)
    if right.signer is None:
        services.audit.record("access-refused", launch, opened.subject, f"DiagnosticReport/{report.id}")
        raise NotASigner(right.why_not)
    return _Case(services, services.desk, launch, opened, report, right.signer)


def _asked_act(case: _Case) -> Act:
    """Return the act that is asked for, where the report's state allows it; else the first that it allows."""
    possible = acts_on(case.report)
    if not possible:
        abort(404)
    asked = request.values.get("act", "")
    return next((act for act in possible if act == asked), possible[0])


def _form(case: _Case, draft: Draft, *, fault: Rejected | None = None) -> ResponseReturnValue:
    """Render the form on the report as it is now, with what the draft's author had chosen."""
    possible = acts_on(case.report)
    if not possible:  # rejected, or withdrawn: there is nothing to be done to it any more
        return redirect(case.url("pages.report_page"), 303)
    case.services.audit.record("report-read", case.launch, case.opened.subject, f"DiagnosticReport/{case.report.id}")
    act = draft.act if draft.act in possible else possible[0]
    moved = draft.version != case.report.version
    page = render_template(
        "review.html",
        examination=_examination(case.services, case.opened, case.report),
        draft=draft,
        act=act,
        acts=possible,
        rows=form_rows(case.report, draft),
        fault=fault,
        moved=moved,
        recast=moved and changed_findings(case.report, draft),
        history=_history(case) if moved else None,
        signer=case.signer.display,
        signing=None,
        **page_values(case.services, case.launch, case.opened),
    )
    return make_response(page, 409 if moved else 400 if fault else 200)


def _preview(case: _Case, draft: Draft, form: str) -> ResponseReturnValue:
    try:
        written = case.desk.preview(case.report.id, draft, case.signer, case.write)
    except PreconditionFailed:
        return _form(case, draft)
    case.services.audit.record("report-read", case.launch, case.opened.subject, f"DiagnosticReport/{case.report.id}")
    report, *others = written
    held = {item.id: item for item in case.report.findings}
    changed = {item["id"]: item for item in others if item["resourceType"] == "Observation"}
    became = read_report(report, changed, case.opened.base)
    findings = [item for item in became.findings if item.id in changed] + [
        item for name, item in held.items() if name not in changed
    ]
    order = list(held)
    findings.sort(key=lambda item: order.index(item.id) if item.id in order else len(order))
    return render_template(
        "preview.html",
        examination=_examination(case.services, case.opened, case.report),
        draft=draft,
        form=form,
        became=became,
        findings=[(item, held.get(item.id)) for item in findings],
        own_token=case.write is not None,
        signer=case.signer.display,
        signing=None,
        **page_values(case.services, case.launch, case.opened),
    )


def _conflict(case: _Case, draft: Draft) -> ResponseReturnValue:
    """Show what somebody else has made of the report, with everything that was typed still in the form."""
    g.form = case.desk.journal.issue(case.launch.launch_id, case.report.id, draft)
    _forget(case)
    opened = open_chart(case.services, case.launch, _NOW)
    report = opened.chart.report(case.report.id)
    if report is None:
        abort(404)
    return _form(_Case(case.services, case.desk, case.launch, opened, report, case.signer), draft)


def _not_done(case: _Case, draft: Draft, error: ImagingError) -> Response:
    """Say that nothing was written, and why; what was typed is kept for another try."""
    again = case.desk.journal.issue(case.launch.launch_id, case.report.id, draft)
    entry = code(error.code)
    page = render_template(
        "message.html",
        heading=gettext("Nothing was signed."),
        detail=entry.fr if current_language() == "fr" else entry.en,
        reference=trace_id(),
        back_url=case.url("signoff.preview", again),
        back_label=gettext("Back to what you were about to sign"),
    )
    response = make_response(page, entry.status)
    if isinstance(error, Retryable):
        response.headers["Retry-After"] = str(max(1, int(error.retry_after) or 5))
    return response


def _not_known(case: _Case) -> Response:
    page = render_template(
        "message.html",
        heading=gettext("It is not known yet whether the report was signed."),
        detail=gettext("The record service did not answer in time. Look at the report before you repeat anything."),
        reference=trace_id(),
        back_url=case.url("pages.report_page"),
        back_label=gettext("Open the report"),
    )
    return make_response(page, 503)


def _history(case: _Case) -> ReviewHistory | None:
    """Return who changed the report; the page stands without it."""
    try:
        return review_history(case.desk.client, case.report.id, case.opened.subject)
    except (Retryable, Permanent):
        return None


def _examination(services: Services, opened: LaunchChart, report: Report) -> Examination:
    """Return the report with its key image; no others to choose from: leaving the form would lose what was typed."""
    entry = next(item for item in opened.entries(services) if any(mine.id == report.id for mine in item.reports))
    result = load_report_file(services.blobs, opened.files_of(report))
    found = assemble(entry, report, result, images_here=opened.holds(entry.study))
    return Examination(found.entry, report, result, found.image, found.has_heatmap, (), found.images_here)


def _forget(case: _Case) -> None:
    """Let the next page read anew what an act has changed."""
    for part in ("reports", "findings"):
        case.services.cache.forget(case.opened.key, part)


def _settle(desk: SigningDesk) -> None:
    try:
        desk.settle()
    except (Retryable, Permanent) as error:
        get_logger(__name__).warning("signoff-not-settled", code=error.code)
