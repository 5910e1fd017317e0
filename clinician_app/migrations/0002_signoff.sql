-- Sign-offs under way: what a person has been shown and may confirm, once; and whether the act was done.
--
-- A draft is what the preview showed. Its form carries a random value whose hash is the key here, so that the confirmation
-- can only confirm what was shown, in the launch that was shown it, and only once. From `begun_at` on the row says that an
-- act is under way whose audit event has to follow: a process that dies in between leaves it to be settled by the next.

CREATE SCHEMA IF NOT EXISTS app;

CREATE TABLE app.signoff_draft (
    form_hash   bytea PRIMARY KEY,        -- SHA-256 of the form's one-time value
    launch_id   text NOT NULL,
    report_id   text NOT NULL,
    draft       jsonb,                    -- emptied when the act has ended: it holds a person's words on a patient
    created_at  timestamptz NOT NULL DEFAULT now(),
    begun_at    timestamptz,
    event       jsonb,                    -- AuditEvent of the act, to be queued when it is known to be done
    copy_name   text,                     -- blob in container `signoffs`
    act_id      text,                     -- Provenance/<id> that the act writes
    recorded    text,                     -- its Provenance.recorded: two people's acts on one version share the id
    ended_at    timestamptz,
    outcome     text CHECK (outcome IN ('done', 'conflict', 'failed')),
    CHECK ((ended_at IS NULL) = (outcome IS NULL))
);
CREATE INDEX signoff_draft_unsettled ON app.signoff_draft (begun_at) WHERE begun_at IS NOT NULL AND ended_at IS NULL;
CREATE INDEX signoff_draft_created ON app.signoff_draft (created_at);

GRANT USAGE ON SCHEMA app TO imaging_page;
GRANT SELECT, INSERT, UPDATE, DELETE ON app.signoff_draft TO imaging_page;
