-- An administrator's overview of running launches, and their end: for the role of the command line, which never sees a
-- session's hash. Tokens are sealed with keys that this role does not need: it deletes them, or seals them anew where an
-- administrator gives it the keys.

GRANT USAGE ON SCHEMA app TO imaging_worker;
GRANT SELECT (launch_id, ehr, issuer, subject, fhir_user, created_at, last_seen_at, ends_at, ended_at) ON app.launch TO imaging_worker;
GRANT UPDATE (ended_at, end_reason) ON app.launch TO imaging_worker;
GRANT SELECT, UPDATE, DELETE ON app.launch_token TO imaging_worker;
