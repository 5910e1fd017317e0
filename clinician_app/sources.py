"""Where a launch's chart is read from: one small interface over the EHR's FHIR service and over this system's own.

A source answers for one patient only, says under which key its answers are cached, and tells three kinds of failure
apart: the service is away (what is cached may be shown, with its age), the right is missing (nothing may), or the thing
is not there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import Protocol

from clinician_app.cache import CacheKey, launch_access
from clinician_app.fhir_values import Resource
from fhir_adapter.client import FhirClient
from fhir_adapter.errors import FhirPermanent, FhirRetryable
from smart_launch import FhirAccessError, FhirSession, LaunchError, LaunchSession

__all__ = ["MOST", "ChartSource", "ImagingServiceSource", "LaunchSource", "SourceAway", "SourceRefused"]

# Most resources of one kind that are read for one patient; the page says when there are more.
MOST = 2_000


class SourceAway(Exception):
    """The FHIR service can't be reached, is busy, or fails.

    Parameters
    ----------
    detail : str
        For the log, without PHI.
    no_answer : bool
        It did not answer at all.
    """

    def __init__(self, detail: str, no_answer: bool = False) -> None:
        super().__init__(detail)
        self.no_answer = no_answer


class SourceRefused(Exception):
    """The FHIR service refuses to tell."""


class ChartSource(Protocol):
    """What the chart needs of a FHIR service."""

    @property
    def key(self) -> CacheKey:
        """Under which key the answers are cached."""
        ...

    @property
    def base(self) -> str:
        """Base URL of the service, for absolute references."""
        ...

    @property
    def patient(self) -> str:
        """Id of the launch's patient at this service."""
        ...

    def allows(self, resource_type: str, interaction: str) -> bool:
        """Whether the right covers reading (``r``) or searching (``s``) a type."""
        ...

    def read(self, resource_type: str, resource_id: str) -> Resource | None:
        """Return one resource, None where there is none.

        Raises
        ------
        SourceAway, SourceRefused
        """
        ...

    def search(self, resource_type: str, params: Mapping[str, str]) -> list[Resource]:
        """Return at most `MOST` + 1 resources.

        Raises
        ------
        SourceAway, SourceRefused
        """
        ...


class LaunchSource:
    """The EHR's own service, read with the launch's token (``imaging_fhir = same``).

    Parameters
    ----------
    launch : LaunchSession
        The launch: its scopes are the right.
    session : FhirSession
        Reads with its token.

    Raises
    ------
    LaunchError
        ``no-patient``.
    """

    def __init__(self, launch: LaunchSession, session: FhirSession) -> None:
        if not launch.patient:
            raise LaunchError("no-patient", "a chart was asked for in a launch without a patient")
        self._launch = launch
        self._patient = launch.patient
        self._session = session

    @property
    def key(self) -> CacheKey:
        """The right of this user at this EHR: shared with nobody."""
        access = launch_access(self._launch.iss, self._launch.subject or self._launch.launch_id, self._launch.scopes)
        return CacheKey(self._launch.fhir_base, access, self._patient)

    @property
    def base(self) -> str:
        """The EHR's FHIR base."""
        return self._launch.fhir_base

    @property
    def patient(self) -> str:
        """The launch's patient."""
        return self._patient

    def allows(self, resource_type: str, interaction: str) -> bool:
        """Whether the granted scopes cover it, at patient or user level."""
        scopes = self._launch.scopes
        return any(scopes.allows(level, resource_type, interaction) for level in ("patient", "user"))

    def read(self, resource_type: str, resource_id: str) -> Resource | None:
        """Read one resource by id."""
        with _launch_failures():
            try:
                return self._session.get_json(f"{resource_type}/{resource_id}")
            except FhirAccessError as error:
                if error.code == "fhir-missing":
                    return None
                raise

    def search(self, resource_type: str, params: Mapping[str, str]) -> list[Resource]:
        """Search a type, page after page."""
        with _launch_failures():
            return list(islice(self._session.search(resource_type, params), MOST + 1))


@contextmanager
def _launch_failures() -> Iterator[None]:
    """Sort the EHR's failures; one that ends the session goes on to smart_launch's page."""
    try:
        yield
    except FhirAccessError as error:
        if error.code == "fhir-denied":
            raise SourceRefused(str(error)) from error
        if error.code in ("fhir-unreachable", "fhir-missing", "ehr-busy", "ehr-unreachable"):
            raise SourceAway(str(error), error.status == 0) from error
        raise


class ImagingServiceSource:
    """The system's own FHIR service, read with the app's identity for the one patient who was matched.

    Parameters
    ----------
    client : FhirClient
        The imaging FHIR service.
    patient : str
        Id of the Patient there who carries an identifier of the launch's patient.
    """

    def __init__(self, client: FhirClient, patient: str) -> None:
        self._client = client
        self._patient = patient

    @property
    def key(self) -> CacheKey:
        """The app's own right: the same whoever looks, for the match decides who may look."""
        return CacheKey(self._client.base_url, "service", self._patient)

    @property
    def base(self) -> str:
        """The imaging service's base."""
        return self._client.base_url

    @property
    def patient(self) -> str:
        """The matched patient."""
        return self._patient

    def allows(self, resource_type: str, interaction: str) -> bool:
        """The app's identity reads what the chart consists of."""
        return True

    def read(self, resource_type: str, resource_id: str) -> Resource | None:
        """Read one resource by id."""
        with _service_failures():
            return self._client.read(resource_type, resource_id)

    def search(self, resource_type: str, params: Mapping[str, str]) -> list[Resource]:
        """Search a type, page after page."""
        with _service_failures():
            return list(islice(self._client.search(resource_type, params), MOST + 1))


@contextmanager
def _service_failures() -> Iterator[None]:
    try:
        yield
    except FhirRetryable as error:
        raise SourceAway(str(error), error.status == 0) from error
    except FhirPermanent as error:
        raise SourceRefused(str(error)) from error
