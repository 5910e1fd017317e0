"""The token request: what is posted, where to, and how the app proves itself."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import KeySet

from smart_launch import SessionStore, SmartConfigurationError
from smart_launch.signing_keys import SigningKey, public_jwks
from tests.smart_launch.scene import BASE, Scene, refused, registration_of
from tests.smart_launch.strict_ehr import StrictEhr, json_answer, raw_answer

SECRET = "p/w+%:ö ☃ & ="


@pytest.mark.requirement("S40", "S41", "S67")
def test_public_client(scene: Scene) -> None:
    scene.launch()
    sent = scene.ehr.last("/token")
    assert sent.headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert set(sent.form) == {"grant_type", "code", "redirect_uri", "code_verifier", "client_id"}
    assert sent.form["redirect_uri"] == [f"{BASE}/callback/ehr-a"]
    assert sent.query == {}
    assert "Authorization" not in sent.headers


@pytest.mark.requirement("S42", "XF5")
def test_symmetric_client_encodes_before_it_joins(ehr: StrictEhr, sessions: SessionStore) -> None:
    ehr.client_id, ehr.client_secret = "app id/1", SECRET
    registration = registration_of(ehr, client_auth="client_secret_basic", client_secret=SECRET)
    assert Scene(ehr, sessions, [registration]).launched()["patient"] == "p1"
    assert ehr.failures == []
    assert "client_secret" not in ehr.last("/token").form


@pytest.mark.requirement("S42")
def test_secret_in_the_body_only_by_configuration(ehr: StrictEhr, sessions: SessionStore) -> None:
    registration = registration_of(ehr, client_auth="client_secret_post", client_secret=SECRET)
    Scene(ehr, sessions, [registration]).launch()
    assert ehr.last("/token").form["client_secret"] == [SECRET]
    assert "Authorization" not in ehr.last("/token").headers


def asymmetric(ehr: StrictEhr, keys: tuple[SigningKey, ...], **changes: Any) -> Any:
    ehr.client_keys = KeySet.import_key_set(public_jwks(keys))  # type: ignore[arg-type]
    return registration_of(ehr, client_auth="private_key_jwt", signing_keys=keys, **changes)


@pytest.mark.requirement("S43", "S44", "S64", "S73", "XF1")
@pytest.mark.parametrize("kind", ["ec", "rsa"])
def test_asymmetric_client(ehr: StrictEhr, sessions: SessionStore, kind: str, request: Any) -> None:
    keys = request.getfixturevalue(f"{kind}_keys")
    scene = Scene(ehr, sessions, [asymmetric(ehr, keys)])
    path = scene.launch()
    sent = ehr.last("/token").form
    token = jwt.decode(sent["client_assertion"][0], ehr.client_keys or [], algorithms=["ES384", "RS384"])  # type: ignore[arg-type]
    assert token.header["alg"] == {"ec": "ES384", "rsa": "RS384"}[kind]
    assert token.header["typ"] == "JWT"
    assert token.header["kid"] == keys[0].kid
    assert token.claims["aud"] == ehr.token_url
    assert token.claims["iat"] <= time.time()
    assert token.claims["exp"] - token.claims["iat"] <= 300
    assert not {"client_id", "client_secret"} & set(sent)
    # a second request has an assertion of its own
    scene.launch(scene.other_browser())
    assert len(ehr.jtis) == 2
    assert scene.home(path)["patient"] == "p1"


@pytest.mark.requirement("S44")
def test_the_algorithm_is_one_that_the_server_takes(
    ehr: StrictEhr, sessions: SessionStore, ec_keys: tuple[SigningKey, ...], rsa_keys: tuple[SigningKey, ...]
) -> None:
    ehr.discovery["token_endpoint_auth_signing_alg_values_supported"] = ["RS384"]
    scene = Scene(ehr, sessions, [asymmetric(ehr, ec_keys + rsa_keys)])
    scene.launch()
    header = json.loads(_decoded(ehr.last("/token").form["client_assertion"][0].split(".")[0]))
    assert header["alg"] == "RS384"


@pytest.mark.requirement("S44")
def test_no_common_algorithm_is_a_clear_page(
    ehr: StrictEhr, sessions: SessionStore, ec_keys: tuple[SigningKey, ...]
) -> None:
    ehr.discovery["token_endpoint_auth_signing_alg_values_supported"] = ["RS256"]
    scene = Scene(ehr, sessions, [asymmetric(ehr, ec_keys)])
    refused(scene.callback(scene.authorized()), "client-refused")


@pytest.mark.requirement("S4")
def test_of_two_methods_the_asymmetric_one_is_used(
    ehr: StrictEhr, sessions: SessionStore, ec_keys: tuple[SigningKey, ...]
) -> None:
    ehr.discovery["token_endpoint_auth_methods_supported"] = ["client_secret_basic", "private_key_jwt"]
    registration = asymmetric(ehr, ec_keys, client_secret="s")
    both = registration_of(ehr, client_auth="client_secret_basic", client_secret="s", signing_keys=ec_keys)
    for chosen in (registration, both):
        Scene(ehr, sessions, [chosen]).launch()
        assert "client_assertion" in ehr.last("/token").form
        assert "Authorization" not in ehr.last("/token").headers


@pytest.mark.requirement("XF2")
def test_an_assertion_is_for_one_ehr(
    ehr: StrictEhr, second_ehr: StrictEhr, sessions: SessionStore, ec_keys: tuple[SigningKey, ...]
) -> None:
    first, second = asymmetric(ehr, ec_keys), asymmetric(second_ehr, ec_keys, name="ehr-b")
    scene = Scene(ehr, sessions, [first, second])
    scene.launch()
    scene.callback(second_ehr.authorize(scene.start(iss=second_ehr.iss).location), name="ehr-b")
    audiences = {
        json.loads(_decoded(double.last("/token").form["client_assertion"][0].split(".")[1]))["aud"]
        for double in (ehr, second_ehr)
    }
    assert audiences == {ehr.token_url, second_ehr.token_url}


@pytest.mark.requirement("S47", "XC9")
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_token_endpoint_that_redirects_gets_nobody_else_the_code(
    ehr: StrictEhr, second_ehr: StrictEhr, sessions: SessionStore, status: int
) -> None:
    scene = Scene(ehr, sessions)
    ehr.token_answer = lambda: raw_answer("", status, headers={"Location": second_ehr.token_url})
    refused(scene.callback(scene.authorized()), "ehr-misconfigured")
    assert second_ehr.seen == []


@pytest.mark.requirement("S48", "S37")
@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        ("invalid_client", 401, "client-refused"),
        ("invalid_grant", 400, "code-refused"),
        ("invalid_scope", 400, "scope-refused"),
        ("unauthorized_client", 400, "client-refused"),
        ("invalid_request", 400, "ehr-error"),
        ("anything <b>else</b>", 400, "ehr-error"),
    ],
)
def test_errors_of_the_token_endpoint(scene: Scene, error: str, status: int, code: str) -> None:
    scene.ehr.token_answer = lambda: json_answer({"error": error, "error_description": "<script>x</script>"}, status)
    response = scene.callback(scene.authorized())
    refused(response, code)
    assert "<script>x" not in response.text


@pytest.mark.requirement("S48", "XD15")
@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (("<html>down</html>", 500), "ehr-error"),
        (("<html>login</html>", 200), "token-unusable"),
        (("", 200), "token-unusable"),
        (("[]", 200), "token-unusable"),
        (("busy", 503), "ehr-busy"),
        (("busy", 429), "ehr-busy"),
        (('{"access_token": "a", "access_token": "b", "token_type": "Bearer"}', 200), "token-unusable"),
        (('{"access_token": "a", "token_type": "Bearer", "expires_in": NaN}', 200), "token-unusable"),
    ],
)
def test_answers_that_are_none(scene: Scene, answer: tuple[str, int], code: str) -> None:
    scene.ehr.token_answer = lambda: raw_answer(*answer)
    refused(scene.callback(scene.authorized()), code)


@pytest.mark.requirement("S46")
def test_keys_and_secrets_do_not_show(ehr: StrictEhr, ec_keys: tuple[SigningKey, ...]) -> None:
    registration = registration_of(
        ehr, client_auth="private_key_jwt", signing_keys=ec_keys, client_secret="very-secret-value"
    )
    private = ec_keys[0].as_dict(private=True)["d"]
    assert "very-secret-value" not in repr(registration)
    assert str(private) not in repr(registration)


@pytest.mark.requirement("S4", "S46")
def test_a_registration_without_its_key_or_secret_does_not_start(ehr: StrictEhr) -> None:
    for method in ("private_key_jwt", "client_secret_basic", "client_secret_post"):
        with pytest.raises(SmartConfigurationError):
            registration_of(ehr, client_auth=method)


def _decoded(segment: str) -> bytes:
    import base64

    return base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
