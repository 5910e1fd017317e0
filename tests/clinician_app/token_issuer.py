"""An EHR that gives access tokens: its discovery, its keys, and tokens as a test wants them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from joserfc import jwt
from joserfc.jwk import ECKey

from tests.clinician_app.odd_fhir import Answer, OddFhir, refusal

__all__ = ["TokenIssuer", "issuing"]


class TokenIssuer:
    """The EHR; its tokens are for its own FHIR base."""

    def __init__(self) -> None:
        self.key = ECKey.generate_key("P-256", {"kid": "one"})
        self.server = OddFhir(self._answer)

    @property
    def base(self) -> str:
        """FHIR base and issuer."""
        return self.server.base

    def _answer(self, path: str, _: dict[str, list[str]]) -> Answer:
        if path == ".well-known/smart-configuration":
            return 200, {
                "issuer": self.base,
                "jwks_uri": f"{self.base}/jwks",
                "authorization_endpoint": f"{self.base}/authorize",
                "token_endpoint": f"{self.base}/token",
                "code_challenge_methods_supported": ["S256"],
            }
        if path == "jwks":
            return 200, {"keys": [self.key.as_dict(private=False)]}
        return refusal(404)

    def token(
        self, patient: str, /, *, key: ECKey | None = None, header: dict[str, Any] | None = None, **claims: Any
    ) -> str:
        """Return a token; claims replace the usual ones, None takes one away."""
        now = int(time.time())
        said = {
            "iss": self.base,
            "aud": self.base,
            "sub": "a-viewer",
            "client_id": "viewer",
            "iat": now,
            "exp": now + 300,
            "patient": patient,
            "scope": "patient/ImagingStudy.rs patient/DiagnosticReport.rs patient/Observation.rs patient/Patient.rs",
            **claims,
        }
        kept = {name: value for name, value in said.items() if value is not None}
        return jwt.encode({"alg": "ES256", "kid": "one", **(header or {})}, kept, key or self.key, algorithms=["ES256"])


@contextmanager
def issuing() -> Iterator[TokenIssuer]:
    """Run an issuer for the time of a block."""
    issuer = TokenIssuer()
    try:
        yield issuer
    finally:
        issuer.server.stop()
