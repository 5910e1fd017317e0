"""What a view knows about the launch that it serves."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from smart_launch.launch_context import ContextItem, LaunchContext
from smart_launch.registration import Registration
from smart_launch.scopes import ScopeSet

__all__ = ["LaunchSession"]


@dataclass(frozen=True)
class LaunchSession:
    """One launch of the app: one user, one EHR, at most one patient.

    Parameters
    ----------
    launch_id : str
        Segment of the path, `/l/<launch_id>/`.
    ehr : Registration
        The launching EHR.
    issuer, subject : str or None
        Who the user is, for good (`iss` and `sub` of the id_token); None where the EHR gives no identity.
    fhir_user : str or None
        `Practitioner/123` and the like, on the launching EHR.
    scopes : ScopeSet
        What was granted.
    context : LaunchContext
        Patient, encounter and so on.
    csrf_token : str
        For the hidden field `csrf_token` or the header `X-CSRF-Token` of everything that is not a GET.
    created_at, ends_at : datetime
        When it was opened, and when it ends at the latest.
    """

    launch_id: str
    ehr: Registration
    issuer: str | None
    subject: str | None
    fhir_user: str | None
    scopes: ScopeSet
    context: LaunchContext
    created_at: datetime
    ends_at: datetime
    csrf_token: str = field(default="", repr=False)

    @property
    def iss(self) -> str:
        """The EHR's `iss`, as registered."""
        return self.ehr.iss

    @property
    def fhir_base(self) -> str:
        """FHIR base URL of the launch's token, without a trailing slash."""
        return self.ehr.fhir_url

    @property
    def patient(self) -> str | None:
        """Id of the launch's patient, without `Patient/`."""
        return self.context.patient

    @property
    def encounter(self) -> str | None:
        """Id of the encounter, without `Encounter/`."""
        return self.context.encounter

    @property
    def fhir_context(self) -> tuple[ContextItem, ...]:
        """Entries of `fhirContext`."""
        return self.context.fhir_context

    @property
    def need_patient_banner(self) -> bool:
        """Whether the app must show who the patient is; true unless the EHR says that it does so itself."""
        return self.context.need_patient_banner

    @property
    def token_locations(self) -> tuple[str, ...]:
        """Where the token may go (`authorization_details`, experimental); empty: the EHR does not say."""
        return self.context.token_locations

    @property
    def intent(self) -> str:
        """What the user wants to do, in the EHR's words; empty: not said."""
        return self.context.intent
