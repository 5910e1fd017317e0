"""Defences of `smart_launch`, how each is switched off, and the test that must notice."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["MUTATIONS", "Mutation"]


@dataclass(frozen=True)
class Mutation:
    """One defence switched off.

    Parameters
    ----------
    defence : str
        What it does.
    module : str
        Module of `smart_launch`.
    old, new : str
        Text of its source, which occurs there once, and what takes its place.
    test : str
        Test in `tests/smart_launch` that fails without the defence.
    """

    defence: str
    module: str
    old: str
    new: str
    test: str

    def applied(self, source: str) -> str:
        """Return a source without the defence.

        Raises
        ------
        ValueError
            The text is not there exactly once: the table is out of date.
        """
        if source.count(self.old) != 1:
            raise ValueError(f"{self.defence}: smart_launch/{self.module}.py has changed")
        return source.replace(self.old, self.new)


MUTATIONS = (
    Mutation(
        "Only registered EHRs are contacted",
        "registration",
        "return next((item for item in registrations if normalised(item.iss) == wanted), None)",
        "return next((item for item in registrations if normalised(item.iss)[:4] == wanted[:4]), None)",
        "test_launch_request.py::test_an_iss_that_is_not_registered_is_never_contacted",
    ),
    Mutation(
        "An http: endpoint is refused",
        "guarded_http",
        '        if not is_loopback_name(host):\n            raise AddressRefused("only https is used")',
        '        if False:\n            raise AddressRefused("only https is used")',
        "test_discovery.py::test_origins",
    ),
    Mutation(
        "Hosts that the registration does not name are not contacted",
        "guarded_http",
        'if origin_of(request.url or "") not in self._origins:',
        "if False:",
        "test_discovery.py::test_a_session_reaches_its_own_origins_only",
    ),
    Mutation(
        "A name that leads to an inner address is refused",
        "guarded_http",
        "        _vet(host, address)\n",
        "        pass\n",
        "test_discovery.py::test_a_registered_name_that_leads_to_an_inner_address_is_refused",
    ),
    Mutation(
        "Redirects are not followed",
        "guarded_http",
        'options["allow_redirects"] = False',
        'options["allow_redirects"] = True',
        "test_discovery.py::test_redirects_are_not_followed_within_the_ehr_either",
    ),
    Mutation(
        "Answers have a greatest length",
        "guarded_http",
        "if len(body) > self._max_bytes:",
        "if False:",
        "test_discovery.py::test_a_compressed_bomb_is_not_unpacked",
    ),
    Mutation(
        "Proxies and credentials of the environment are not used",
        "guarded_http",
        "self.trust_env = False",
        "self.trust_env = True",
        "test_discovery.py::test_proxies_and_netrc_of_the_environment_are_not_used",
    ),
    Mutation(
        "A JSON member that occurs twice is refused",
        "guarded_http",
        "if len(members) != len(pairs):",
        "if False:",
        "test_id_token.py::test_repeated_members_are_refused",
    ),
    Mutation(
        "Certificates are verified",
        "guarded_http",
        "self.verify = ca_file or True",
        "self.verify = False",
        "test_tls.py::test_a_certificate_must_be_of_the_name_and_in_force",
    ),
    Mutation(
        "PKCE by S256 is required",
        "discovery",
        'elif "S256" not in configuration.code_challenge_methods:',
        "elif False:",
        "test_discovery.py::test_pkce_by_s256_is_required",
    ),
    Mutation(
        "Endpoints elsewhere are refused",
        "discovery",
        "    if origin in registration.origins:\n        return url",
        "    if origin:\n        return url",
        "test_discovery.py::test_endpoints_elsewhere_are_refused",
    ),
    Mutation(
        "OpenID discovery that names another issuer is refused",
        "discovery",
        'if document.get("issuer") not in ((issuer,) if issuer else (base, registration.iss)):',
        "if False:",
        "test_discovery.py::test_openid_discovery_that_names_another_issuer_is_refused",
    ),
    Mutation(
        "The old metadata is read only where there is no SMART configuration",
        "discovery",
        "if response.status_code == 404:",
        "if response.status_code != 200:",
        "test_discovery.py::test_no_fallback_after_any_other_failure",
    ),
    Mutation(
        "The code verifier goes with the code",
        "token_endpoint",
        '        "code_verifier": verifier,\n',
        '        "code_verifier": "v" * 64,\n',
        "test_token_request.py::test_public_client",
    ),
    Mutation(
        "The redirect URI is not made of the request's Host",
        "smart",
        'return f"{self.app_base_url}/callback/{registration.name}"',
        'return f"{request.host_url}callback/{registration.name}"',
        "test_authorization_request.py::test_redirect_uri_does_not_come_from_the_request",
    ),
    Mutation(
        "States are fresh and unguessable",
        "authorization_request",
        "state, verifier, nonce = secrets.token_urlsafe(24), pkce.new_verifier(), secrets.token_urlsafe(24)",
        "state, verifier, nonce = secrets.token_hex(9), pkce.new_verifier(), secrets.token_urlsafe(24)",
        "test_authorization_request.py::test_state_nonce_and_challenge_are_new_each_time_and_unguessable",
    ),
    Mutation(
        "A state counts at its own EHR's redirect URI only",
        "pending_requests",
        'if row is None or row["ehr"] != ehr:',
        "if row is None:",
        "test_callback.py::test_mix_up_of_two_ehrs_is_refused",
    ),
    Mutation(
        "A state belongs to one browser",
        "pending_requests",
        'if not hmac.compare_digest(bytes(row["binding_hash"]), digest(binding)):',
        "if False:",
        "test_callback.py::test_another_browser_s_cookie_under_the_right_name_does_not_help",
    ),
    Mutation(
        "A state serves once",
        "pending_requests",
        '            if row["used"]:\n                raise LaunchError("launch-used", "state was used before")',
        '            if False:\n                raise LaunchError("launch-used", "state was used before")',
        "test_callback.py::test_a_state_serves_once_even_with_its_cookie",
    ),
    Mutation(
        "A state ends after ten minutes",
        "pending_requests",
        '            if row["expired"]:\n',
        "            if False:\n",
        "test_callback.py::test_an_old_state_is_refused",
    ),
    Mutation(
        "Duplicate parameters are refused",
        "callback",
        "if len(values) > 1:",
        "if False:",
        "test_callback.py::test_a_wrong_state_is_refused_before_any_request",
    ),
    Mutation(
        "The issuer of the answer is compared (RFC 9207)",
        "callback",
        "elif self.iss != configuration.issuer:",
        "elif False:",
        "test_callback.py::test_an_answer_of_another_issuer_is_refused",
    ),
    Mutation(
        "An issuer that was promised is required",
        "callback",
        "if configuration.iss_parameter:",
        "if False:",
        "test_callback.py::test_a_missing_iss_counts_where_the_ehr_promises_it",
    ),
    Mutation(
        "The algorithm is one of a list",
        "id_token",
        "algorithm not in allowed:",
        "False:",
        "test_id_token.py::test_only_the_algorithms_that_the_ehr_names",
    ),
    Mutation(
        "The signature is verified",
        "id_token",
        "if not any(_signed_by(token, key, algorithm) for key in candidates):",
        "if False:",
        "test_id_token.py::test_a_wrong_signature_is_refused",
    ),
    Mutation(
        "A header that brings its own key is refused",
        "id_token",
        "if any(name in header for name in _FOREIGN_KEYS):",
        "if False:",
        "test_id_token.py::test_headers_that_bring_a_key_or_demand_more_are_refused",
    ),
    Mutation(
        "iss of the id_token is compared",
        "id_token",
        'if not issuer or claims.get("iss") != issuer:',
        "if False:",
        "test_id_token.py::test_a_wrong_claim_is_refused",
    ),
    Mutation(
        "aud of the id_token holds the app",
        "id_token",
        "if client_id not in listed or not",
        "if not",
        "test_id_token.py::test_a_wrong_claim_is_refused",
    ),
    Mutation(
        "azp of the id_token is the app",
        "id_token",
        "if (len(listed) > 1 and azp is None) or (azp is not None and azp != client_id):",
        "if False:",
        "test_id_token.py::test_a_wrong_claim_is_refused",
    ),
    Mutation(
        "An id_token that has expired is refused",
        "id_token",
        'if claims["exp"] <= now - _LEEWAY_S:',
        "if False:",
        "test_id_token.py::test_a_wrong_claim_is_refused",
    ),
    Mutation(
        "An id_token from the future is refused",
        "id_token",
        'if claims["iat"] > now + _LEEWAY_S:',
        "if False:",
        "test_id_token.py::test_a_wrong_claim_is_refused",
    ),
    Mutation(
        "The nonce is this request's",
        "id_token",
        "if not isinstance(nonce, str) or not nonce_matches(nonce):",
        "if False:",
        "test_id_token.py::test_an_id_token_of_an_earlier_launch_is_refused",
    ),
    Mutation(
        "at_hash fits the access token",
        "id_token",
        '    if "at_hash" in claims:\n',
        "    if False:\n",
        "test_id_token.py::test_a_wrong_claim_is_refused",
    ),
    Mutation(
        "A key of another EHR does not count",
        "issuer_keys",
        'f"{registration.name} {jwks_uri}"',
        '"shared"',
        "test_id_token.py::test_the_key_of_another_ehr_does_not_count",
    ),
    Mutation(
        "Unknown key ids do not make a storm",
        "issuer_keys",
        "_RETRY_S = 30.0",
        "_RETRY_S = 0.0",
        "test_id_token.py::test_a_storm_of_unknown_keys_asks_the_ehr_no_more_often",
    ),
    Mutation(
        "A published private key is not trusted",
        "issuer_keys",
        "    if _PRIVATE & set(member):\n",
        "    if False:\n",
        "test_id_token.py::test_a_published_private_key_is_not_trusted",
    ),
    Mutation(
        "Only clinicians are let in",
        "launch_flow",
        'and identity.fhir_user.partition("/")[0] not in smart.accepted_users',
        "and False",
        "test_id_token.py::test_only_clinicians_are_let_in",
    ),
    Mutation(
        "openid without an id_token is refused",
        "launch_flow",
        'if registration.require_identity or ("openid" in answer.scopes and offered):',
        "if False:",
        "test_id_token.py::test_openid_granted_without_an_id_token_is_refused",
    ),
    Mutation(
        "Patient rights without a patient open nothing",
        "launch_flow",
        'raise LaunchError("no-patient", "rights at patient level without a patient")',
        "pass",
        "test_token_response.py::test_rights_at_patient_level_without_a_patient_open_nothing",
    ),
    Mutation(
        "Launches of one address are limited",
        "launch_flow",
        "if count > smart.rate_limit_per_address:",
        "if False:",
        "test_launch_request.py::test_launches_of_one_address_are_limited",
    ),
    Mutation(
        "A patient is one id of this server",
        "launch_context",
        'return text if _ID.fullmatch(text) and text.strip(".") else None',
        "return text",
        "test_token_response.py::test_a_patient_that_is_none_opens_nothing",
    ),
    Mutation(
        "References to other servers stay out of the context",
        "launch_context",
        'reference=reference if _REFERENCE.fullmatch(reference) else "",',
        "reference=reference,",
        "test_token_response.py::test_fhir_context",
    ),
    Mutation(
        "The banner shows unless the EHR says it does",
        "launch_context",
        'need_patient_banner=document.get("need_patient_banner") is not False,',
        'need_patient_banner=document.get("need_patient_banner") is True,',
        "test_token_response.py::test_the_banner_is_left_out_only_where_the_ehr_says_so",
    ),
    Mutation(
        "token_type is Bearer",
        "token_endpoint",
        'if not isinstance(token_type, str) or token_type.lower() != "bearer":',
        "if False:",
        "test_token_response.py::test_an_unusable_token_is_refused",
    ),
    Mutation(
        "Each assertion has a jti of its own",
        "client_auth",
        '"jti": secrets.token_urlsafe(24),',
        '"jti": "always-the-same-jti",',
        "test_token_request.py::test_asymmetric_client",
    ),
    Mutation(
        "An assertion lives five minutes at most",
        "client_auth",
        "_LIFE_S = 240",
        "_LIFE_S = 3600",
        "test_token_request.py::test_asymmetric_client",
    ),
    Mutation(
        "An assertion is for one endpoint",
        "client_auth",
        '"aud": endpoint,',
        '"aud": registration.iss,',
        "test_token_request.py::test_an_assertion_is_for_one_ehr",
    ),
    Mutation(
        "Secrets are form-encoded before base64",
        "client_auth",
        "{quote_plus(registration.client_secret)}",
        "{registration.client_secret}",
        "test_token_request.py::test_symmetric_client_encodes_before_it_joins",
    ),
    Mutation(
        "A session id opens its own launch only",
        "session_store",
        'if not hmac.compare_digest(bytes(row["session_hash"]), digest(session_ids[row["launch_id"]])):',
        "if False:",
        "test_sessions.py::test_one_launch_s_session_id_does_not_open_another_launch",
    ),
    Mutation(
        "The session id is new after the callback",
        "session_store",
        "launch_id, session_id = secrets.token_urlsafe(16), secrets.token_urlsafe(32)",
        'launch_id, session_id = secrets.token_urlsafe(16), "planted-value"',
        "test_sessions.py::test_a_cookie_from_before_the_callback_is_worth_nothing_after_it",
    ),
    Mutation(
        "Launches end when they are not used",
        "session_store",
        " OR last_seen_at <= now() - %(idle)s AS expired",
        " AND now() - %(idle)s < now() AS expired",
        "test_sessions.py::test_a_launch_ends_by_itself",
    ),
    Mutation(
        "One process refreshes at a time",
        "session_store",
        'connection.execute(f"{_TOKENS} FOR UPDATE", (launch_id,))',
        "connection.execute(_TOKENS, (launch_id,))",
        "test_refresh.py::test_many_requests_at_once_refresh_once",
    ),
    Mutation(
        "Tokens are sealed in the database",
        "session_store",
        '                    self.keys.seal(access_token, f"access:{launch_id}"),\n',
        "                    access_token.encode(),\n",
        "test_sessions.py::test_the_database_holds_nothing_that_can_be_used",
    ),
    Mutation(
        "Logout deletes the tokens",
        "session_store",
        "            connection.execute(_DROP_TOKENS, (list(launch_ids),))\n        return ended",
        "        return ended",
        "test_sessions.py::test_logout_ends_launch_and_tokens",
    ),
    Mutation(
        "A refresh that names another patient ends the launch",
        "token_keeper",
        "if context.patient is not None and context.patient != launch.patient:",
        "if False:",
        "test_refresh.py::test_a_refresh_that_names_another_patient_ends_the_launch",
    ),
    Mutation(
        "A refused refresh ends the launch",
        "token_keeper",
        "        self._sessions.end([launch.launch_id], failure.code)\n",
        "        pass\n",
        "test_refresh.py::test_a_refused_refresh_ends_the_launch",
    ),
    Mutation(
        "Logout takes the tokens back at the EHR",
        "views",
        "    smart.tokens.revoke(session.ehr, launch_id)\n",
        "    pass\n",
        "test_sessions.py::test_logout_ends_launch_and_tokens",
    ),
    Mutation(
        "A forged form is refused by its missing token",
        "csrf",
        "    if not any(matches):\n",
        "    if False:\n",
        "test_pages.py::test_forged_posts_are_refused",
    ),
    Mutation(
        "A form of another origin is refused",
        "csrf",
        'if request.headers.get("Origin", "null") not in ("null", own_origin):',
        "if False:",
        "test_pages.py::test_forged_posts_are_refused",
    ),
    Mutation(
        "A form of another site is refused",
        "csrf",
        'if request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):',
        "if False:",
        "test_pages.py::test_forged_posts_are_refused",
    ),
    Mutation(
        "Cookies are out of reach of scripts",
        "cookies",
        'path="/", secure=True, httponly=True, samesite="None", partitioned=True\n    )\n\n\ndef clear_cookie',
        'path="/", secure=True, httponly=False, samesite="None", partitioned=True\n    )\n\n\ndef clear_cookie',
        "test_sessions.py::test_cookies_are_for_this_host_only_and_out_of_reach",
    ),
    Mutation(
        "Cookies are in the EHR's own partition",
        "cookies",
        'path="/", secure=True, httponly=True, samesite="None", partitioned=True\n    )\n\n\ndef clear_cookie',
        'path="/", secure=True, httponly=True, samesite="None"\n    )\n\n\ndef clear_cookie',
        "test_in_chromium.py::test_third_party_cookies_blocked",
    ),
    Mutation(
        "Only the launching EHR may embed",
        "security_headers",
        'return " ".join(g.get("smart_frame_ancestors") or ("\'none\'",))',
        'return "*"',
        "test_in_chromium.py::test_a_foreign_page_can_not_embed_a_running_launch",
    ),
    Mutation(
        "No inline script runs",
        "security_headers",
        "(\"script-src\", \"'self' 'nonce-{nonce}'\"),",
        "(\"script-src\", \"'self' 'unsafe-inline'\"),",
        "test_pages.py::test_header_fields_of_every_answer",
    ),
    Mutation(
        "Nothing is kept in caches",
        "security_headers",
        'response.headers["Cache-Control"] = "no-store"',
        "pass",
        "test_pages.py::test_header_fields_of_every_answer",
    ),
    Mutation(
        "No address is told to others",
        "security_headers",
        'response.headers["Referrer-Policy"] = "no-referrer"',
        "pass",
        "test_pages.py::test_header_fields_of_every_answer",
    ),
    Mutation(
        "Access logs show no query",
        "access_log",
        '            cut = _QUERY.sub(r"\\1", message)\n',
        "            cut = message\n",
        "test_pages.py::test_access_logs_show_no_query",
    ),
    Mutation(
        "Other patients' resources are left out",
        "fhir_session",
        "            if self._belongs(resource):\n",
        "            if True:\n",
        "test_fhir_session.py::test_other_patients_resources_are_left_out",
    ),
    Mutation(
        "Another patient's resource is not read",
        "fhir_session",
        "        if not self._belongs(document):\n",
        "        if False:\n",
        "test_fhir_session.py::test_another_patient_s_resource_is_not_read",
    ),
    Mutation(
        "Paths stay below the FHIR base",
        "fhir_session",
        '        if ".." in path.split("/") or "\\\\" in path or "%2e" in path.lower():\n',
        "        if False:\n",
        "test_fhir_session.py::test_no_request_leaves_the_fhir_server",
    ),
    Mutation(
        "The token keeps to the places it is for",
        "fhir_session",
        "        self._check_location()\n",
        "        pass\n",
        "test_associated_endpoints.py::test_the_token_goes_only_where_authorization_details_let_it",
    ),
    Mutation(
        "An associated endpoint is left at its base",
        "fhir_session",
        "and (not self._associated or self._is_below(target))",
        "and True",
        "test_associated_endpoints.py::test_a_session_to_an_associated_endpoint_stays_below_it",
    ),
    Mutation(
        "The system is a client of its own",
        "backend_services",
        "        client_id=registration.system_client_id,\n",
        "        client_id=registration.client_id,\n",
        "test_backend_services.py::test_a_token_is_asked_for_as_the_standard_says",
    ),
    Mutation(
        "Introspection believes a clear yes only",
        "introspection",
        'if document.get("active") is not True:',
        'if not document.get("active"):',
        "test_backend_services.py::test_only_a_clear_yes_makes_a_token_active",
    ),
    Mutation(
        "Debug mode does not start at a public address",
        "smart",
        "if app.debug and self._secure_transport:",
        "if False:",
        "test_operations.py::test_debug_mode_does_not_start_at_a_public_address",
    ),
    Mutation(
        "Key files open to everyone are refused",
        "secret_source",
        "        if mode & stat.S_IRWXO:\n",
        "        if False:\n",
        "test_registrations.py::test_what_is_wrong_stops_the_start",
    ),
    Mutation(
        "A sealed value opens in its place only",
        "keyring",
        "    return place.encode()\n",
        '    return b""\n',
        "test_sessions.py::test_a_sealed_value_opens_in_its_place_only",
    ),
    Mutation(
        "Only public halves of keys are published",
        "signing_keys",
        '            **{name: material[name] for name in _PUBLIC_MEMBERS[str(material["kty"])]},\n',
        "            **key.as_dict(private=True),\n",
        "test_published_keys.py::test_the_key_set_is_public_and_holds_public_members_only",
    ),
)
