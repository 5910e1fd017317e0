"""EHRs that behave as the vendors' documents and users say theirs do, as far as a launch meets it.

Each profile is a strict double with the vendor's peculiarities, and the registration that the documents of
`docs/connect_an_ehr.md` lead to. They stand for what is written; no vendor's sandbox was asked.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from joserfc.jwk import ECKey, RSAKey

from smart_launch import Registration
from tests.smart_launch.strict_ehr import StrictEhr, json_answer, raw_answer

READ = "patient/Patient.rs patient/ImagingStudy.rs patient/DiagnosticReport.rs patient/Observation.rs"


@dataclass
class Profile:
    """A vendor's EHR: the authorization side, the FHIR service (often the same), and the registration."""

    ehr: StrictEhr
    registration: Registration
    fhir: StrictEhr
    others: list[StrictEhr] = field(default_factory=list)

    def stop(self) -> None:
        for double in {id(item): item for item in (self.ehr, self.fhir, *self.others)}.values():
            double.stop()

    def sync_tokens(self) -> None:
        """Let the FHIR service know the tokens that the authorization server has given."""
        self.fhir.access_tokens |= self.ehr.access_tokens


def epic(**changes: Any) -> Profile:
    """Epic on FHIR R4: symmetric client, embedded launch, no refresh token."""
    ehr = StrictEhr(path="/interconnect/api/FHIR/R4", client_id="11aa22bb-cc", client_secret="q/w+e=")
    issuer = f"{ehr.origin}/oauth2"
    kid = base64.b64encode(b"thumbprint-of-epic==").decode() + "="
    ehr.key = RSAKey.generate_key(2048, {"kid": kid, "use": "sig"})
    ehr.jwt_header = {"kid": kid}
    ehr.discovery = {
        "issuer": None,
        "jwks_uri": None,
        "token_endpoint_auth_methods_supported": ["client_secret_post", "client_secret_basic", "private_key_jwt"],
        "token_endpoint_auth_signing_alg_values_supported": ["RS256", "RS384", "RS512", "ES256", "ES384"],
    }
    ehr.openid_answer = lambda: json_answer({"issuer": issuer, "jwks_uri": f"{ehr.origin}/jwks"})
    # Epic's documents: the metadata is XML unless JSON is asked for
    ehr.metadata_answer = lambda: raw_answer("<CapabilityStatement/>", content_type="application/fhir+xml")
    ehr.claims = {
        "iss": issuer,
        "sub": "eM5CWtq15N0WJeuCet5bJlQ3",
        "fhirUser": f"{ehr.origin}/oauth2/api/FHIR/R4/Practitioner/eM5CWtq15N0WJeuCet5bJlQ3",
        "at_hash": None,
    }
    ehr.expires_in = 3240
    ehr.token = {
        "token_type": "bearer",
        "scope": "openid Patient.read Patient.search ImagingStudy.read DiagnosticReport.read DiagnosticReport.search "
        "Observation.read Observation.search",
        "refresh_token": None,
        "patient": "eq081-VQEgP8drUUqCWzHfw3",
        "encounter": "eoK8nLRc-pWJbuFnsWJTBWw3",
        "need_patient_banner": "true",
        "smart_style_url": f"{ehr.origin}/style.json",
        "__epic.dstu2.patient": "TnOZ.elPXC6zcBNFMcFA7A5KZbYxo2.4T-LylRk4GoW4B",
        "location": "eQ7WqJSw",
        "appointment": "eEr2cQfj",
        "loginDepartment": "e4W4rmGe",
        "state": "not the app's",
    }
    registration = Registration(
        **{
            "name": "epic",
            "iss": ehr.iss,
            "client_id": ehr.client_id,
            "client_auth": "client_secret_basic",
            "client_secret": ehr.client_secret,
            "scopes": f"launch openid fhirUser {READ}",
            "issuer": issuer,
            "frame_ancestors": ("https://ehr.example",),
            "discovery_headers": (("Epic-Client-ID", ehr.client_id),),
            **changes,
        }
    )
    return Profile(ehr, registration, ehr)


def oracle_health(**changes: Any) -> Profile:
    """Oracle Health (Millennium): tenant in the path, `aud` with a slash, ES256, short tokens, `online_access`."""
    tenant = "ec2458f2-1e24-41c8-b71b-0e701af7583d"
    ehr = StrictEhr(path=f"/r4/{tenant}", client_id="b2d7f5d4")
    ehr.audience = f"{ehr.iss}/"
    ehr.key = ECKey.generate_key("P-256", {"kid": "millennium", "use": "sig", "alg": "ES256"})
    ehr.jwt_header = {"alg": "ES256", "kid": "millennium"}
    ehr.discovery = {"token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"]}
    ehr.expires_in = 570
    ehr.claims = {"fhirUser": f"{ehr.iss}/Practitioner/593923", "at_hash": None}
    ehr.token = {
        "scope": f"launch openid fhirUser online_access {READ}",
        "patient": "12724066",
        "encounter": "97957281",
        "need_patient_banner": True,
        "tenant": tenant,
        "user": "593923",
        "username": "portal",
    }
    registration = Registration(
        **{
            "name": "oracle",
            "iss": f"{ehr.iss}/",
            "client_id": ehr.client_id,
            "client_auth": "none",
            "scopes": f"launch openid fhirUser online_access {READ}",
            "frame_ancestors": ("https://ehr.example",),
            **changes,
        }
    )
    return Profile(ehr, registration, ehr)


def azure_gateway(**changes: Any) -> Profile:
    """Azure Health Data Services: a gateway launches, Entra ID names the user, the FHIR service is a third host."""
    gateway = StrictEhr(path="/api", client_id="7d1c0b0e-entra", client_secret="a~secret.of-Entra_ID")
    login = StrictEhr(path="/tenant/v2.0")
    fhir = StrictEhr(path="/fhir")
    issuer = login.iss
    gateway.audience = fhir.iss
    gateway.discovery = {
        "issuer": None,
        "jwks_uri": None,
        "revocation_endpoint": None,
        "capabilities": [
            "launch-ehr",
            "launch-standalone",
            "client-public",
            "client-confidential-symmetric",
            "sso-openid-connect",
            "context-ehr-patient",
            "permission-patient",
            "permission-v1",
            "permission-v2",
        ],
    }
    login.openid_answer = lambda: json_answer({"issuer": issuer, "jwks_uri": f"{login.origin}/jwks"})
    gateway.claims = {"iss": issuer, "sub": "oid-of-entra", "fhirUser": f"{fhir.iss}/Practitioner/az1", "at_hash": None}
    gateway.token = {
        "scope": "openid https://fhir.example/patient.Patient.rs patient.ImagingStudy.rs patient.all.r launch",
        "patient": "az-patient",
        "refresh_token": None,
    }
    registration = Registration(
        **{
            "name": "azure",
            "iss": gateway.iss,
            "client_id": gateway.client_id,
            "client_auth": "client_secret_basic",
            "client_secret": gateway.client_secret,
            "scopes": f"launch openid fhirUser {READ}",
            "issuer": issuer,
            "fhir_base": fhir.iss,
            "aud": fhir.iss,
            "frame_ancestors": ("https://ehr.example",),
            **changes,
        }
    )
    return Profile(gateway, registration, fhir, [login])


def athena(**changes: Any) -> Profile:
    """One that wants `aud` with its whole path, and embeds the app in a sandboxed frame."""
    ehr = StrictEhr(path="/v1/fhir/r4")
    values = {"name": "athena", "iss": ehr.iss, "client_id": ehr.client_id, "client_auth": "none"}
    return Profile(ehr, Registration(**{**values, "scopes": f"launch openid fhirUser {READ}", **changes}), ehr)


def keycloak(**changes: Any) -> Profile:
    """One on Keycloak 23 or later: the callback names the issuer, which is a realm's address."""
    ehr = StrictEhr(path="/fhir")
    issuer = f"{ehr.origin}/realms/hospital"
    ehr.discovery = {"issuer": issuer, "authorization_response_iss_parameter_supported": True}
    ehr.claims = {"iss": issuer}
    values = {"name": "keycloak", "iss": ehr.iss, "client_id": ehr.client_id, "client_auth": "none"}
    return Profile(ehr, Registration(**{**values, "scopes": f"launch openid fhirUser {READ}", **changes}), ehr)


PROFILES: dict[str, Callable[..., Profile]] = {
    "epic": epic,
    "oracle": oracle_health,
    "azure": azure_gateway,
    "athena": athena,
    "keycloak": keycloak,
}
