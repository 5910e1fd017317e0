"""What the report page offers to a reader who may sign, and what it says to one who may not."""

from __future__ import annotations

from dataclasses import dataclass

from clinician_app.launch_chart import LaunchChart
from clinician_app.own_studies import is_own_service
from clinician_app.report import Report
from clinician_app.services import Services
from clinician_app.signing_right import SigningRight
from clinician_app.signoff_draft import Act, acts_on
from smart_launch import LaunchSession

__all__ = ["SigningPanel", "right_of", "signing_panel"]


@dataclass(frozen=True)
class SigningPanel:
    """The part of the report page that is about signing.

    Parameters
    ----------
    acts : tuple of str
        What may be done to the report; empty where the reader has no right.
    signer : str
        Name under which it would be done.
    why_not : str
        Why nothing is offered, as a code of `clinician_app.wording.no_right`; '' where something is.
    """

    acts: tuple[Act, ...]
    signer: str
    why_not: str


def right_of(services: Services, launch: LaunchSession, *, fresh: bool) -> SigningRight:
    """Return whether the launch's user may sign."""
    local = launch.ehr.imaging_fhir == "same" and is_own_service(launch.fhir_base, services.settings)
    return services.rights.of(launch, services.smart.fhir(launch), local=local, fresh=fresh)


def signing_panel(
    services: Services, launch: LaunchSession, opened: LaunchChart, report: Report | None
) -> SigningPanel | None:
    """Return the panel of a report; None for one that is not this system's, or that nobody can act on any more."""
    acts = acts_on(report) if report else ()
    if not acts or opened.files_of(report) is None:
        return None
    if services.desk is None:
        return SigningPanel((), "", "no-rule")
    if opened.chart.stale:
        return SigningPanel((), "", "away")
    right = right_of(services, launch, fresh=False)
    return SigningPanel(acts, right.signer.display, "") if right.signer else SigningPanel((), "", right.why_not)
