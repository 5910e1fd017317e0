"""FHIR requests with one right: to the EHR that gave it, for the launch's patient if there is one, to nobody else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol
from urllib.parse import urlsplit

import requests
import structlog

from smart_launch.errors import FhirAccessError
from smart_launch.guarded_http import AddressRefused, GuardedSession, origin_of, strict_json
from smart_launch.registration import Registration

__all__ = ["FhirAccess", "FhirSession"]

_log = structlog.get_logger("smart_launch")
_MAX_PAGES = 50
_FHIR_JSON = "application/fhir+json"
_FAULTS = {401: "launch-ended", 403: "fhir-denied", 404: "fhir-missing", 410: "fhir-missing", 429: "ehr-busy"}


class FhirAccess(Protocol):
    """What a FHIR session has to know of the right that it uses: a launch's, or the app's own."""

    @property
    def ehr(self) -> Registration:
        """The EHR."""
        ...

    @property
    def fhir_base(self) -> str:
        """FHIR base URL, without a trailing slash."""
        ...

    @property
    def patient(self) -> str | None:
        """The one patient whose resources may be seen; None where the right is not one patient's."""
        ...

    @property
    def token_locations(self) -> tuple[str, ...]:
        """Where the token may go, in the EHR's words; empty: the EHR does not say."""
        ...


class FhirSession:
    """A requests-like session for one launch.

    Every resource that comes back and belongs to another patient than the launch's is refused, or left out of a search,
    whatever the server thought.

    Parameters
    ----------
    access : FhirAccess
        The launch, or the app's own access.
    http : GuardedSession
        Session that reaches the FHIR service of that EHR only.
    current : callable
        Returns an access token that has not expired.
    renew : callable
        Returns another access token than the one that it is given, which was refused.
    base : str
        Base that is read; the FHIR base by default, or an associated endpoint that takes the same token.
    """

    def __init__(
        self,
        access: FhirAccess,
        http: GuardedSession,
        current: Callable[[], str],
        renew: Callable[[str], str],
        base: str = "",
    ) -> None:
        self._access = access
        self._http = http
        self._current = current
        self._renew = renew
        self._base = base or access.fhir_base
        self._associated = bool(base)

    def url(self, target: str) -> str:
        """Return the address of a path below the FHIR base, or of an absolute URL on the same origin.

        Raises
        ------
        FhirAccessError
            `fhir-denied`: it is elsewhere. No token is sent there.
        """
        if "://" in target.partition("?")[0] or target.startswith("//"):
            try:
                if origin_of(target) == origin_of(self._base) and (not self._associated or self._is_below(target)):
                    return target
            except AddressRefused as error:
                raise FhirAccessError("fhir-denied", 0, f"address refused: {error}") from error
            raise FhirAccessError("fhir-denied", 0, "address is on another server")
        path = target.partition("?")[0]
        if ".." in path.split("/") or "\\" in path or "%2e" in path.lower():
            raise FhirAccessError("fhir-denied", 0, "path leaves the FHIR base")
        return f"{self._base}/{target.removeprefix('/')}"

    def _is_below(self, target: str) -> bool:
        """Say whether an address is below the associated endpoint: its host may serve others that take no token."""
        path = urlsplit(target).path
        clean = ".." not in path.split("/") and "%2e" not in path.lower() and "//" not in path
        return clean and (target == self._base or target.startswith((f"{self._base}/", f"{self._base}?")))

    def _check_location(self) -> None:
        """Keep to `locations` of `authorization_details` (SMART 2.2, experimental): the token is for those only.

        Raises
        ------
        FhirAccessError
            `fhir-denied`.
        """
        allowed = [location.rstrip("/") for location in self._access.token_locations]
        if allowed and not any(self._base == item or self._base.startswith(f"{item}/") for item in allowed):
            raise FhirAccessError("fhir-denied", 0, "authorization_details does not list this service")

    def request(self, method: str, target: str, **options: Any) -> requests.Response:
        """Send a request; after a 401, once more with a refreshed token.

        Parameters
        ----------
        method : str
            HTTP method.
        target : str
            Path below the FHIR base, or an absolute URL on the same origin.
        **options
            As for `requests.Session.request`.

        Raises
        ------
        FhirAccessError
            Status 400 or above, a redirect, or no answer.
        LaunchError
            The launch is over.
        """
        url = self.url(target)
        self._check_location()
        headers = {"Accept": _FHIR_JSON, **(options.pop("headers", None) or {})}
        token = self._current()
        response = self._send(method, url, token, headers, options)
        if response.status_code == 401:
            token = self._renew(token)
            response = self._send(method, url, token, headers, options)
        if response.status_code >= 300:
            raise _refusal(response)
        return response

    def _send(
        self, method: str, url: str, token: str, headers: Mapping[str, str], options: Mapping[str, Any]
    ) -> requests.Response:
        try:
            return self._http.request(method, url, headers={**headers, "Authorization": f"Bearer {token}"}, **options)
        except AddressRefused as error:
            raise FhirAccessError("fhir-denied", 0, str(error)) from error
        except requests.RequestException as error:
            raise FhirAccessError("fhir-unreachable", 0, type(error).__name__) from error

    def get(self, target: str, **options: Any) -> requests.Response:
        """Send a GET request."""
        return self.request("GET", target, **options)

    def get_json(self, target: str, params: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return a resource, or a Bundle without what belongs to other patients.

        Raises
        ------
        FhirAccessError
            As `request`; `fhir-denied` if it belongs to another patient; `fhir-unreachable` if it is not FHIR JSON.
        """
        document = _json(self.get(target, params=params))
        if document.get("resourceType") == "Bundle":
            return {**document, "entry": [{"resource": item} for item in self._resources(document)]}
        if not self._belongs(document):
            _log.warning("smart.fhir.other_patient", ehr=self._access.ehr.name)
            raise FhirAccessError("fhir-denied", 200, "resource belongs to another patient")
        return document

    def search(self, resource_type: str, params: Mapping[str, Any] | None = None) -> Iterator[dict[str, Any]]:
        """Yield the resources that a search finds, included ones too, page by page.

        Parameters
        ----------
        resource_type : str
            FHIR type.
        params : mapping
            Search parameters; those of a launch with a patient name that patient.

        Raises
        ------
        FhirAccessError
            As `request`; also where the server pages without end, or to another server.
        """
        bundle = _json(self.get(resource_type, params=params))
        seen: set[str] = set()
        for _ in range(_MAX_PAGES):
            yield from self._resources(bundle)
            following = _next_link(bundle)
            if following is None:
                return
            if following in seen:
                break
            seen.add(following)
            bundle = _json(self.get(following))
        raise FhirAccessError("fhir-unreachable", 200, "search has pages without end")

    def _resources(self, bundle: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        entries = bundle.get("entry")
        for entry in entries if isinstance(entries, list) else []:
            resource = entry.get("resource") if isinstance(entry, dict) else None
            if not isinstance(resource, dict) or resource.get("resourceType") == "OperationOutcome":
                continue
            if self._belongs(resource):
                yield resource
            else:
                _log.warning("smart.fhir.other_patient", ehr=self._access.ehr.name)

    def _belongs(self, resource: Mapping[str, Any]) -> bool:
        """Say whether a resource may be shown in this launch: it is nobody's, or the launch patient's."""
        patient = self._access.patient
        if patient is None:
            return True
        if resource.get("resourceType") == "Patient":
            return resource.get("id") == patient
        for member in ("subject", "patient"):
            target = resource.get(member)
            reference = target.get("reference") if isinstance(target, dict) else None
            if isinstance(reference, str) and "Patient/" in reference:
                own = (f"Patient/{patient}", f"{self._base}/Patient/{patient}")
                return reference.split("/_history/")[0] in own
        return True


def _json(response: requests.Response) -> dict[str, Any]:
    try:
        return strict_json(response.content)
    except ValueError as error:
        raise FhirAccessError("fhir-unreachable", response.status_code, f"answer: {error}") from error


def _next_link(bundle: Mapping[str, Any]) -> str | None:
    links = bundle.get("link")
    for link in links if isinstance(links, list) else []:
        if isinstance(link, dict) and link.get("relation") == "next" and isinstance(link.get("url"), str):
            return str(link["url"])
    return None


def _refusal(response: requests.Response) -> FhirAccessError:
    status = response.status_code
    after = response.headers.get("Retry-After", "")
    retry_after = int(after) if after.isascii() and after.isdigit() and len(after) < 6 else 0
    code = _FAULTS.get(status, "ehr-busy" if status == 503 else "fhir-unreachable")
    path = urlsplit(response.url).path.rstrip("/").split("/")
    kind = next((part for part in reversed(path) if part[:1].isupper()), "")
    return FhirAccessError(code, status, f"{kind} answered {status}", retry_after)
