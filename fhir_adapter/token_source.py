"""Where the FHIR client's bearer token comes from."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Protocol

from fhir_adapter.errors import FhirRetryable
from imaging_core.azure_login import azure_credential

if TYPE_CHECKING:
    from azure.core.credentials import AccessToken, TokenCredential

__all__ = ["EntraToken", "NoToken", "StaticToken", "TokenSource"]

_EARLY_S = 300.0


class TokenSource(Protocol):
    """Gives the bearer token of the next request."""

    def token(self) -> str | None:
        """Return a valid token, or None where the service takes none."""

    def expire(self) -> None:
        """Forget a token that the service has refused."""


class NoToken:
    """No authentication."""

    def token(self) -> str | None:
        """Return None."""
        return None

    def expire(self) -> None:
        """Do nothing."""


class StaticToken:
    """A bearer token from the settings (local stack)."""

    def __init__(self, value: str) -> None:
        self._value = value

    def token(self) -> str | None:
        """Return the token."""
        return self._value

    def expire(self) -> None:
        """Do nothing: there is no other one."""


class EntraToken:
    """Tokens of Microsoft Entra ID by azure-identity, renewed five minutes before they end.

    Parameters
    ----------
    audience : str
        The FHIR service's audience, without ``/.default``.
    credential : TokenCredential, optional
        Default: the process's own identity (managed identity on Azure).
    """

    def __init__(self, audience: str, credential: TokenCredential | None = None) -> None:
        self._scope = f"{audience.rstrip('/')}/.default"
        self._credential = credential
        self._held: AccessToken | None = None
        self._lock = threading.Lock()

    def token(self) -> str | None:
        """Return a token that lives for some minutes more.

        Raises
        ------
        FhirRetryable
            Where the identity endpoint gives none.
        """
        with self._lock:
            if self._held is None or self._held.expires_on - _EARLY_S <= time.time():
                self._held = self._fetch()
            return self._held.token

    def expire(self) -> None:
        """Forget the held token."""
        with self._lock:
            self._held = None

    def _fetch(self) -> AccessToken:
        # imported here: the local stack never needs it, and it costs 0.3 s
        from azure.core.exceptions import AzureError

        credential = self._credential or azure_credential()
        try:
            return credential.get_token(self._scope)
        except AzureError as error:
            raise FhirRetryable(f"no token from the identity endpoint ({type(error).__name__})") from error
