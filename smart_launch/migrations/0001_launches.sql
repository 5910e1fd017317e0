-- Launches of the app: what is open in which browser, and the tokens that go with it.
-- Nothing here works as a credential if it is copied: ids of sessions, states and nonces are stored as SHA-256, tokens and
-- verifiers are sealed with AES-GCM under a key that is not in the database.

CREATE SCHEMA IF NOT EXISTS app;

-- One authorization request that has been sent to an EHR and not yet answered (RFC 6749 4.1.1).
CREATE TABLE app.authorization_request (
    state_hash   bytea PRIMARY KEY,
    binding_hash bytea NOT NULL,       -- of the cookie that ties the state to one browser
    restart_hash bytea NOT NULL,       -- of the ticket with which a browser that keeps no cookies may start again
    ehr          text NOT NULL,
    nonce_hash   bytea NOT NULL,
    sealed       bytea NOT NULL,       -- code verifier, launch value, scopes asked for
    created_at   timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz NOT NULL,
    used_at      timestamptz,
    restarted_at timestamptz
);
CREATE INDEX authorization_request_expiry ON app.authorization_request (expires_at);
CREATE UNIQUE INDEX authorization_request_restart ON app.authorization_request (restart_hash);

-- One launch: one user, one EHR and at most one patient, under a path of its own in the browser.
CREATE TABLE app.launch (
    launch_id    text PRIMARY KEY,
    session_hash bytea NOT NULL UNIQUE,
    ehr          text NOT NULL,
    iss          text NOT NULL,
    issuer       text,
    subject      text,
    fhir_user    text,
    patient      text,
    encounter    text,
    scopes       text NOT NULL,
    context      jsonb NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    last_seen_at timestamptz NOT NULL DEFAULT now(),
    ends_at      timestamptz NOT NULL,
    ended_at     timestamptz,
    end_reason   text
);
CREATE INDEX launch_open ON app.launch (last_seen_at) WHERE ended_at IS NULL;

-- Tokens in a table of their own, so that a refresh, which holds the row, does not hold up the pages of the launch.
CREATE TABLE app.launch_token (
    launch_id     text PRIMARY KEY REFERENCES app.launch ON DELETE CASCADE,
    access_token  bytea NOT NULL,
    refresh_token bytea,
    expires_at    timestamptz NOT NULL,
    key_id        text NOT NULL,
    refreshed_at  timestamptz NOT NULL DEFAULT now()
);

-- Launches per address and minute. Unlogged: a crash may forget it.
CREATE UNLOGGED TABLE app.launch_rate (
    address_hash bytea NOT NULL,
    minute       timestamptz NOT NULL,
    launches     integer NOT NULL,
    PRIMARY KEY (address_hash, minute)
);
CREATE INDEX launch_rate_minute ON app.launch_rate (minute);

GRANT USAGE ON SCHEMA app TO imaging_page;
GRANT SELECT, INSERT, UPDATE, DELETE ON app.authorization_request, app.launch, app.launch_token, app.launch_rate TO imaging_page;
