"""The redirect URI: everything that may come back there, from the EHR or from an attacker."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from smart_launch import SessionStore
from tests.smart_launch.scene import Scene, fault_code, launch_many, query_of, refused, registration_of
from tests.smart_launch.strict_ehr import StrictEhr


def no_exchange(scene: Scene) -> None:
    assert "/token" not in scene.ehr.paths()


@pytest.mark.requirement("S33", "XC1")
@pytest.mark.parametrize("change", ["drop", "empty", "other", "twice", "longer", "case"])
def test_a_wrong_state_is_refused_before_any_request(scene: Scene, change: str) -> None:
    answer = scene.authorized()
    state = answer["state"]
    query = {
        "drop": f"code={answer['code']}",
        "empty": f"code={answer['code']}&state=",
        "other": f"code={answer['code']}&state=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "twice": f"code={answer['code']}&state={state}&state={state}",
        "longer": f"code={answer['code']}&state={state}x",
        "case": f"code={answer['code']}&state={state.swapcase()}",
    }[change]
    refused(scene.get(f"/callback/ehr-a?{query}"), "launch-unknown")
    no_exchange(scene)


@pytest.mark.requirement("S33", "XC2")
def test_an_error_with_a_foreign_state_is_refused_like_any_other(scene: Scene) -> None:
    refused(scene.callback({"error": "access_denied", "state": "A" * 32}), "launch-unknown")
    refused(scene.callback({"error": "access_denied"}), "launch-unknown")


@pytest.mark.requirement("S33", "S39", "XB3", "XC7")
def test_a_state_serves_once(scene: Scene) -> None:
    answer = scene.authorized()
    first = scene.callback(answer)
    again = scene.callback(answer)
    # the cookie that goes with the state is gone, so a reload finds nothing to do
    assert fault_code(again) == "launch-used"
    assert scene.ehr.paths().count("/token") == 1
    assert scene.home(first.location)["patient"] == "p1"


@pytest.mark.requirement("S33", "XB3")
def test_a_state_serves_once_even_with_its_cookie(scene: Scene) -> None:
    answer = scene.authorized()
    cookie = scene.cookie("__Host-state-")
    scene.callback(answer)
    scene.browser.set_cookie(cookie.key, cookie.value, domain="app.example", secure=True)
    refused(scene.callback(answer), "launch-used")
    assert scene.ehr.paths().count("/token") == 1


@pytest.mark.requirement("S33", "S25", "XB2")
def test_a_state_belongs_to_one_browser(scene: Scene) -> None:
    answer = scene.authorized()
    stranger = scene.other_browser()
    scene.start(stranger)
    refused(scene.callback(answer, stranger), "no-cookie")
    no_exchange(scene)
    assert scene.callback(answer).status_code == 303  # and the right browser goes on undisturbed


@pytest.mark.requirement("S33", "XB2")
def test_another_browser_s_cookie_under_the_right_name_does_not_help(scene: Scene) -> None:
    answer = scene.authorized()
    name = scene.cookie("__Host-state-").key
    stranger = scene.other_browser()
    stranger.set_cookie(name, "guess", domain="app.example", secure=True)
    refused(scene.callback(answer, stranger), "launch-unknown")
    no_exchange(scene)


@pytest.mark.requirement("S33")
def test_an_old_state_is_refused(scene: Scene, owner: psycopg.Connection[Any]) -> None:
    answer = scene.authorized()
    owner.execute("UPDATE app.authorization_request SET expires_at = now() - interval '1 second'")
    refused(scene.callback(answer), "launch-expired")
    no_exchange(scene)


@pytest.mark.requirement("S10", "XB5")
def test_two_launches_of_one_browser_finish_in_any_order(scene: Scene) -> None:
    first, second = scene.authorized(), scene.authorized()
    scene.ehr.token = {"patient": "p-second"}
    path_second = scene.callback(second).location
    scene.ehr.token = {"patient": "p-first"}
    path_first = scene.callback(first).location
    assert scene.home(path_first)["patient"] == "p-first"
    assert scene.home(path_second)["patient"] == "p-second"


@pytest.mark.requirement("S10", "XB5")
def test_launches_at_the_same_moment_are_not_mixed_up(scene: Scene) -> None:
    """Forty here, two hundred in the benchmark: each browser gets the patient that it was launched for."""
    found = launch_many(scene, 40)
    assert len(found) == 40
    assert all(meant == shown for meant, shown in found)
    assert scene.ehr.paths().count("/fhir/.well-known/smart-configuration") == 1
    assert scene.ehr.paths().count("/jwks") == 1


@pytest.mark.requirement("XB4", "XC4")
def test_a_code_of_another_launch_fails(scene: Scene) -> None:
    first, second = scene.authorized(), scene.authorized()
    response = scene.callback({**first, "code": second["code"]})
    refused(response, "code-refused")
    assert scene.ehr.failures == ["invalid_grant: PKCE"]


@pytest.mark.requirement("XC4", "XD8")
def test_a_code_injected_with_its_own_verifier_still_fails_by_nonce(scene: Scene) -> None:
    """An EHR that does not check PKCE hands out another request's id_token: its nonce gives it away."""
    victim, attacker = scene.authorized(), scene.authorized(scene.other_browser())
    scene.ehr.grants[attacker["code"]].parameters["code_challenge"] = scene.ehr.grants[victim["code"]].parameters[
        "code_challenge"
    ]
    refused(scene.callback({**victim, "code": attacker["code"]}), "identity-unproven")


@pytest.mark.requirement("S35", "S88", "XC5", "XC6")
@pytest.mark.parametrize("iss", ["https://evil.example", "{iss}", "{origin}/", "{upper}", ""])
def test_an_answer_of_another_issuer_is_refused(scene: Scene, iss: str) -> None:
    answer = scene.authorized()
    answer["iss"] = iss.format(
        iss=scene.ehr.iss, origin=scene.ehr.origin, upper=scene.ehr.origin.replace("http", "HTTP")
    )
    refused(scene.callback(answer), "wrong-issuer")
    no_exchange(scene)


@pytest.mark.requirement("S35")
@pytest.mark.parametrize("promised", [True, False])
def test_a_missing_iss_counts_where_the_ehr_promises_it(scene: Scene, promised: bool) -> None:
    scene.ehr.discovery["authorization_response_iss_parameter_supported"] = promised
    answer = scene.authorized()
    del answer["iss"]
    assert scene.callback(answer).status_code == (400 if promised else 303)


@pytest.mark.requirement("XC5")
def test_mix_up_of_two_ehrs_is_refused(ehr: StrictEhr, second_ehr: StrictEhr, sessions: SessionStore) -> None:
    scene = Scene(ehr, sessions, [registration_of(ehr), registration_of(second_ehr, name="ehr-b")])
    sent = query_of(scene.start(iss=second_ehr.iss).location)
    assert sent["redirect_uri"].endswith("/callback/ehr-b")
    # the second EHR sends the user on to the first one, whose code would then be posted to the second
    code = ehr.grant({**sent, "aud": ehr.iss})
    refused(scene.callback({**code, "state": sent["state"]}, name="ehr-a"), "launch-unknown")
    refused(scene.callback({**code, "state": sent["state"]}, name="ehr-b"), "wrong-issuer")
    assert "/token" not in ehr.paths() + second_ehr.paths()


@pytest.mark.requirement("S36")
def test_codes_as_long_as_a_jwt_are_taken(scene: Scene) -> None:
    answer = scene.authorized()
    long_code = "c" * 4500
    scene.ehr.grants[long_code] = scene.ehr.grants.pop(answer["code"])
    assert scene.callback({**answer, "code": long_code}).status_code == 303


@pytest.mark.requirement("S36")
@pytest.mark.parametrize(
    ("extra", "code"),
    [
        ("", "launch-unknown"),
        ("&code={code}&code={code}", "launch-unknown"),
        ("&code=", "launch-unknown"),
        ("&code={code}&error=server_error", "ehr-error"),
        ("&code={code}&error=server_error&error=access_denied", "launch-unknown"),
        ("&code={long}", "launch-unknown"),
        ("&code={code}&iss={iss}", "launch-unknown"),
    ],
)
def test_contradicting_answers_are_refused(scene: Scene, extra: str, code: str) -> None:
    answer = scene.authorized()
    query = f"state={answer['state']}&iss={answer['iss']}" + extra.format(**answer | {"long": "c" * 17_000})
    refused(scene.get(f"/callback/ehr-a?{query}"), code)
    no_exchange(scene)


@pytest.mark.requirement("S37")
@pytest.mark.parametrize(
    ("error", "code"),
    [
        ("access_denied", "access-denied"),
        ("invalid_scope", "scope-refused"),
        ("server_error", "ehr-error"),
        ("temporarily_unavailable", "ehr-busy"),
        ("unauthorized_client", "client-refused"),
        ("something_new", "ehr-error"),
    ],
)
def test_each_error_has_a_page_of_its_own(scene: Scene, error: str, code: str) -> None:
    answer = scene.authorized()
    refused(scene.callback({"error": error, "state": answer["state"], "iss": answer["iss"]}), code)
    no_exchange(scene)


@pytest.mark.requirement("S34", "XC3")
def test_error_texts_are_neither_shown_nor_linked(scene: Scene) -> None:
    answer = scene.authorized()
    evil = "<script>alert(document.domain)</script>"
    response = scene.callback(
        {
            "error": evil,
            "error_description": evil,
            "error_uri": "javascript:alert(1)//https://evil.example",
            "state": answer["state"],
            "iss": answer["iss"],
        }
    )
    assert "alert(" not in response.text
    assert "evil.example" not in response.text


@pytest.mark.requirement("S34")
@pytest.mark.parametrize("extra", ["next", "redirect", "redirect_uri", "url", "RelayState"])
def test_the_callback_redirects_nowhere_else(scene: Scene, extra: str) -> None:
    response = scene.callback({**scene.authorized(), extra: "https://evil.example/"})
    assert response.location.startswith("/l/")


@pytest.mark.requirement("S38", "S39")
def test_after_the_exchange_the_address_is_clean(scene: Scene) -> None:
    answer = scene.authorized()
    response = scene.callback(answer)
    assert response.status_code == 303
    assert "?" not in response.location
    assert answer["code"] not in response.location
    assert answer["state"] not in response.text


@pytest.mark.requirement("XC8")
def test_a_posted_callback_is_refused(scene: Scene) -> None:
    answer = scene.authorized()
    response = scene.post("/callback/ehr-a", data=answer)
    assert response.status_code in (403, 405)
    no_exchange(scene)


@pytest.mark.requirement("XC10", "S37")
def test_error_pages_and_logs_hold_no_secret(scene: Scene, caplog: pytest.LogCaptureFixture, capsys: Any) -> None:
    caplog.set_level("DEBUG")
    answer = scene.authorized()
    scene.ehr.token = {"token_type": "mac"}
    response = scene.callback(answer)
    refused(response, "token-unusable")
    tokens = [*scene.ehr.access_tokens, *scene.ehr.refresh_tokens]
    captured = capsys.readouterr()
    for secret in (answer["code"], answer["state"], *tokens):
        for place in (response.text, str(response.headers), caplog.text, captured.out, captured.err):
            assert secret not in place


@pytest.mark.requirement("S33")
def test_an_unknown_redirect_uri_is_refused(scene: Scene) -> None:
    refused(scene.callback(scene.authorized(), name="other"), "launch-unknown")
    no_exchange(scene)
