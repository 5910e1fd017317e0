"""An EHR that checks everything that a launch sends it, and that a test can make misbehave in any answer."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote_plus, urlsplit

from flask import Flask, Response, jsonify, request
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, RSAKey
from werkzeug.serving import make_server

Answer = Callable[[], Response]
PATIENT = "p1"
GRANTED = (
    "launch openid fhirUser online_access patient/Patient.rs patient/ImagingStudy.rs patient/DiagnosticReport.rs "
    "patient/Observation.rs"
)


@dataclass
class Seen:
    """One request that reached the EHR."""

    method: str
    path: str
    query: dict[str, list[str]]
    form: dict[str, list[str]]
    headers: dict[str, str]


@dataclass
class Grant:
    """What was authorized, until its code is exchanged."""

    parameters: dict[str, str]
    used: bool = False


class OAuthFailure(Exception):
    def __init__(self, error: str, why: str, status: int = 400) -> None:
        super().__init__(f"{error}: {why}")
        self.error, self.why, self.status = error, why, status


@functools.cache
def _signing_key() -> RSAKey:
    return RSAKey.generate_key(2048, {"use": "sig", "alg": "RS256", "kid": "ehr-key"})


@dataclass
class StrictEhr:
    """An EHR on a loopback port.

    Everything that a test may change is an attribute: `discovery`, `token` and `claims` are laid over what a good EHR
    answers (None takes a member away); the `..._answer` callables replace an answer as a whole.
    """

    client_id: str = "app-at-ehr"
    client_secret: str = ""
    path: str = "/fhir"
    discovery: dict[str, Any] = field(default_factory=dict)
    discovery_answer: Answer | None = None
    openid_answer: Answer | None = None
    metadata_answer: Answer | None = None
    token: dict[str, Any] = field(default_factory=dict)
    token_answer: Answer | None = None
    claims: dict[str, Any] = field(default_factory=dict)
    jwt_header: dict[str, Any] = field(default_factory=dict)
    make_id_token: Callable[[dict[str, Any]], str] | None = None
    jwks: dict[str, Any] | None = None
    jwks_answer: Answer | None = None
    fhir_answer: Callable[[str], Response | None] | None = None
    resources: dict[str, Any] = field(default_factory=dict)
    revoked: list[str] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    grants: dict[str, Grant] = field(default_factory=dict)
    refresh_tokens: dict[str, str] = field(default_factory=dict)
    access_tokens: set[str] = field(default_factory=set)
    jtis: set[str] = field(default_factory=set)
    failures: list[str] = field(default_factory=list)
    client_keys: KeySet | None = None
    system_client_id: str = "system-at-ehr"
    system_keys: KeySet | None = None
    system_scope: str = "system/ImagingStudy.rs system/Patient.rs"
    system_expires_in: Any = 300
    system_tokens: set[str] = field(default_factory=set)
    introspection_answer: Answer | None = None
    introspection_proof: str = "client"  # or "token": an access token of the system's
    discovery_path: str = ""
    associated: dict[str, Any] = field(default_factory=dict)
    audience: str = ""
    expires_in: Any = 900
    refresh_gate: Callable[[], object] | None = None

    def __post_init__(self) -> None:
        self.key: RSAKey | ECKey = _signing_key()
        self._lock = threading.Lock()
        self._server = make_server("127.0.0.1", 0, self._app(), threaded=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join(10)
        self._server.server_close()

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def iss(self) -> str:
        return f"{self.origin}{self.path}"

    @property
    def token_url(self) -> str:
        return f"{self.origin}/token"

    def paths(self) -> list[str]:
        return [item.path for item in self.seen]

    def last(self, path: str) -> Seen:
        return next(item for item in reversed(self.seen) if item.path == path)

    # what the browser brings

    def authorize(self, location: str) -> dict[str, str]:
        """Check an authorization request as a strict EHR does; return the parameters of the redirect back."""
        parts = urlsplit(location)
        assert f"{parts.scheme}://{parts.netloc}{parts.path}" == f"{self.origin}/authorize", location
        query = parse_qs(parts.query, keep_blank_values=True, strict_parsing=True)
        assert all(len(values) == 1 for values in query.values()), "a parameter occurs twice"
        return self.grant({name: values[0] for name, values in query.items()})

    def grant(self, parameters: dict[str, str]) -> dict[str, str]:
        assert parameters["response_type"] == "code"
        assert parameters["client_id"] == self.client_id
        assert parameters["aud"] == (self.audience or self.iss)
        assert parameters["code_challenge_method"] == "S256"
        assert 43 <= len(parameters["code_challenge"]) <= 128
        code = secrets.token_urlsafe(24)
        self.grants[code] = Grant(parameters)
        return {"code": code, "state": parameters["state"], "iss": self.origin}

    # the endpoints

    def _app(self) -> Flask:
        app = Flask("strict_ehr")

        @app.before_request
        def note() -> None:
            seen = Seen(
                request.method,
                request.path,
                request.args.to_dict(False),
                request.form.to_dict(False),
                dict(request.headers),
            )
            with self._lock:
                self.seen.append(seen)

        @app.get(f"{self.discovery_path or self.path}/.well-known/smart-configuration")
        def smart_configuration() -> Response:
            return self.discovery_answer() if self.discovery_answer else jsonify(self.configuration())

        @app.get(f"{self.path}/.well-known/openid-configuration")
        @app.get("/<path:_>/.well-known/openid-configuration")
        @app.get("/.well-known/openid-configuration")
        def openid_configuration(_: str = "") -> Any:
            return self.openid_answer() if self.openid_answer else ("", 404)

        @app.get(f"{self.path}/metadata")
        def metadata() -> Any:
            return self.metadata_answer() if self.metadata_answer else ("", 404)

        @app.get("/jwks")
        def jwks() -> Any:
            if self.jwks_answer:
                return self.jwks_answer()
            return self.jwks if self.jwks is not None else {"keys": [self.key.as_dict(private=False)]}

        @app.post("/token")
        def token() -> Any:
            try:
                document = self._token()
            except OAuthFailure as failure:
                self.failures.append(str(failure))
                return {"error": failure.error, "error_description": failure.why}, failure.status
            if self.token_answer:
                return self.token_answer()
            return jsonify(document), 200, {"Cache-Control": "no-store", "Pragma": "no-cache"}

        @app.post("/introspect")
        def introspect() -> Any:
            bearer = request.headers.get("Authorization", "").removeprefix("Bearer ")
            try:
                if self.introspection_proof == "client":
                    if bearer or self.system_keys is None:
                        raise OAuthFailure("invalid_client", "authenticate as the system's client", 401)
                    self._check_assertion(request.form, self.system_keys, self.system_client_id)
                elif bearer not in self.system_tokens:
                    raise OAuthFailure("invalid_token", "show a token of the system's", 401)
            except OAuthFailure as failure:
                self.failures.append(str(failure))
                return {"error": failure.error}, failure.status
            if self.introspection_answer:
                return self.introspection_answer()
            if request.form.get("token") not in self.access_tokens:
                return {"active": False}
            return {
                "active": True,
                "scope": GRANTED,
                "client_id": self.client_id,
                "exp": int(time.time()) + 60,
                "patient": PATIENT,
                "iss": self.origin,
                "sub": "user-7",
                "fhirUser": f"{self.iss}/Practitioner/dr1",
            }

        @app.get("/associated/<path:rest>")
        def associated(rest: str) -> Any:
            sent = request.headers.get("Authorization", "").removeprefix("Bearer ")
            if sent not in self.access_tokens:
                return "", 401
            found = self.associated.get(rest)
            return found() if callable(found) else ("", 404)

        @app.post("/revoke")
        def revoke() -> Any:
            self._authenticate()
            self.revoked.append(request.form["token"])
            return "", 200

        @app.route(f"{self.path}/<path:rest>", methods=["GET", "PUT", "POST"])
        def fhir(rest: str) -> Any:
            if self.fhir_answer and (answer := self.fhir_answer(rest)) is not None:
                return answer
            sent = request.headers.get("Authorization", "").removeprefix("Bearer ")
            if sent not in self.access_tokens | self.system_tokens:
                return {"resourceType": "OperationOutcome"}, 401
            found = self.resources.get(rest)
            return (found, 200) if found is not None else ({"resourceType": "OperationOutcome"}, 404)

        return app

    def configuration(self) -> dict[str, Any]:
        return laid_over(
            {
                "issuer": self.origin,
                "jwks_uri": f"{self.origin}/jwks",
                "authorization_endpoint": f"{self.origin}/authorize",
                "token_endpoint": self.token_url,
                "revocation_endpoint": f"{self.origin}/revoke",
                "code_challenge_methods_supported": ["S256"],
                "grant_types_supported": ["authorization_code"],
                "capabilities": [
                    "launch-ehr",
                    "launch-standalone",
                    "authorize-post",
                    "sso-openid-connect",
                    "permission-v2",
                    "something-from-the-future",
                ],
                "unknown_member": {"a": [1]},
            },
            self.discovery,
        )

    def _token(self) -> dict[str, Any]:
        form = request.form
        if request.content_type.split(";")[0] != "application/x-www-form-urlencoded":
            raise OAuthFailure("invalid_request", "content type")
        if any(len(form.getlist(name)) > 1 for name in form):
            raise OAuthFailure("invalid_request", "a parameter occurs twice")
        if form.get("grant_type") == "client_credentials":
            return self._system(form)
        self._authenticate()
        if form.get("grant_type") == "refresh_token":
            return self._refreshed(form)
        if form.get("grant_type") != "authorization_code":
            raise OAuthFailure("unsupported_grant_type", "grant_type")
        grant = self.grants.get(form.get("code", ""))
        if grant is None or grant.used:
            raise OAuthFailure("invalid_grant", "code is unknown or was used")
        grant.used = True
        if form.get("redirect_uri") != grant.parameters["redirect_uri"]:
            raise OAuthFailure("invalid_grant", "redirect_uri differs")
        verifier = form.get("code_verifier", "")
        wanted = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        if not 43 <= len(verifier) <= 128 or wanted != grant.parameters["code_challenge"]:
            raise OAuthFailure("invalid_grant", "PKCE")
        return self.token_response(grant.parameters)

    def _system(self, form: Mapping[str, str]) -> dict[str, Any]:
        """Check a request of the app itself (SMART 2.2 "Backend Services")."""
        if self.system_keys is None:
            raise OAuthFailure("unauthorized_client", "no system client is registered")
        if set(form) != {"grant_type", "scope", "client_assertion_type", "client_assertion"}:
            raise OAuthFailure("invalid_request", "parameters")
        self._check_assertion(form, self.system_keys, self.system_client_id)
        if not form["scope"] or not all(word.startswith("system/") for word in form["scope"].split()):
            raise OAuthFailure("invalid_scope", "scopes of level system only")
        token = secrets.token_urlsafe(24)
        self.system_tokens.add(token)
        document = {"access_token": token, "token_type": "bearer", "scope": self.system_scope}
        if self.system_expires_in is not None:
            document["expires_in"] = self.system_expires_in
        return document

    def _refreshed(self, form: Mapping[str, str]) -> dict[str, Any]:
        if "scope" in form:
            raise OAuthFailure("invalid_scope", "scope in a refresh")
        if self.refresh_gate:
            self.refresh_gate()
        with self._lock:
            granted = self.refresh_tokens.pop(form.get("refresh_token", ""), None)
        if granted is None:
            raise OAuthFailure("invalid_grant", "refresh token is unknown or was used")
        return self._with_tokens({"scope": granted}, granted)

    def token_response(self, parameters: Mapping[str, str]) -> dict[str, Any]:
        document = self._with_tokens(
            {"scope": GRANTED, "patient": PATIENT, "need_patient_banner": True}, parameters["scope"]
        )
        if "openid" in parameters["scope"].split():
            document["id_token"] = self.id_token(parameters.get("nonce"), document["access_token"])
        return laid_over(document, self.token)

    def _with_tokens(self, document: dict[str, Any], granted: str) -> dict[str, Any]:
        access, refresh = secrets.token_urlsafe(24), secrets.token_urlsafe(24)
        self.access_tokens.add(access)
        self.refresh_tokens[refresh] = granted
        document |= {"access_token": access, "token_type": "Bearer", "refresh_token": refresh}
        if self.expires_in is not None:
            document["expires_in"] = self.expires_in
        return document

    def id_token(self, nonce: str | None, access_token: str) -> str:
        now = int(time.time())
        claims = laid_over(
            {
                "iss": self.origin,
                "sub": "user-7",
                "aud": self.client_id,
                "exp": now + 300,
                "iat": now,
                "nonce": nonce,
                "fhirUser": f"{self.iss}/Practitioner/dr1",
                "at_hash": half_hash(access_token),
            },
            self.claims,
        )
        if self.make_id_token:
            return self.make_id_token(claims)
        header = laid_over({"alg": "RS256", "kid": "ehr-key", "typ": "JWT"}, self.jwt_header)
        return jwt.encode(header, claims, self.key, algorithms=[header["alg"]])

    def _authenticate(self) -> None:
        form = request.form
        authorization = request.headers.get("Authorization", "")
        if self.client_keys is not None:
            self._check_assertion(form, self.client_keys, self.client_id)
        elif self.client_secret:
            if not authorization.startswith("Basic ") or "client_id" in form:
                raise OAuthFailure("invalid_client", "Basic is required", 401)
            pair = base64.b64decode(authorization[6:]).decode()
            name, _, secret = pair.partition(":")
            if (unquote_plus(name), unquote_plus(secret)) != (self.client_id, self.client_secret):
                raise OAuthFailure("invalid_client", "secret", 401)
        elif authorization or form.get("client_id") != self.client_id:
            raise OAuthFailure("invalid_client", "a public client sends client_id and no Authorization", 401)

    def _check_assertion(self, form: Mapping[str, str], keys: KeySet, client_id: str) -> None:
        def refuse(why: str) -> OAuthFailure:
            return OAuthFailure("invalid_client", why, 401)

        if form.get("client_assertion_type") != "urn:ietf:params:oauth:client-assertion-type:jwt-bearer":
            raise refuse("client_assertion_type")
        if "client_id" in form or "client_secret" in form:
            raise refuse("client_id is omitted by confidential clients")
        token = jwt.decode(form.get("client_assertion", ""), keys, algorithms=["ES384", "RS384"])
        claims, now = token.claims, time.time()
        checks = {
            "typ": token.header.get("typ") == "JWT",
            "kid": isinstance(token.header.get("kid"), str),
            "iss": claims.get("iss") == client_id,
            "sub": claims.get("sub") == client_id,
            "aud": claims.get("aud") == request.base_url,
            "exp": now < claims.get("exp", 0) <= now + 300,
            "life": claims.get("exp", 0) - claims.get("iat", 0) <= 300,
            "iat": claims.get("iat", now) <= now,
            "jti": isinstance(claims.get("jti"), str) and len(claims["jti"]) <= 151 and claims["jti"] not in self.jtis,
        }
        for name, passed in checks.items():
            if not passed:
                raise refuse(name)
        self.jtis.add(claims["jti"])


def laid_over(document: Mapping[str, Any], members: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in {**document, **members}.items() if value is not None}


def half_hash(text: str, algorithm: str = "sha256") -> str:
    digest = hashlib.new(algorithm, text.encode()).digest()
    return base64.urlsafe_b64encode(digest[: len(digest) // 2]).rstrip(b"=").decode()


def raw_answer(
    body: bytes | str,
    status: int = 200,
    content_type: str = "application/json",
    headers: Mapping[str, str] | None = None,
) -> Response:
    return Response(body, status, {"Content-Type": content_type, **(headers or {})})


def json_answer(document: Any, status: int = 200) -> Response:
    return raw_answer(json.dumps(document), status)
