-- The ledger: every delivery, instance and study, and how far each has come. Desired state lives here; queue messages are hints.

CREATE SCHEMA ledger;

-- One row for each delivery, whatever became of it. `held` is not an outcome of its own: it is an accepted delivery whose study waits
-- for a patient, and is derived in the view below, so that a resolved hold needs no second truth.
CREATE TABLE ledger.intake (
    intake_id    uuid PRIMARY KEY,
    delivery_key text UNIQUE,              -- a drop's blob name and ETag: a repeated event finds its row; NULL for requests
    received_at  timestamptz NOT NULL DEFAULT now(),
    source       text NOT NULL CHECK (source IN ('stow', 'image', 'drop', 'cstore')),
    client       text NOT NULL,
    site         text NOT NULL,
    outcome      text NOT NULL CHECK (outcome IN ('accepted', 'duplicate', 'rejected', 'quarantined')),
    reason       text,                     -- a code of imaging_core.errors
    detail       text,
    sop_uid      text,
    study_uid    text,
    sha256       text,
    bytes        bigint NOT NULL DEFAULT 0,
    blob         text,                     -- container/name of what was stored
    upload_id    uuid,
    trace_id     text NOT NULL DEFAULT '',
    CHECK ((outcome IN ('rejected', 'quarantined')) = (reason IS NOT NULL))
);
CREATE INDEX intake_study ON ledger.intake (study_uid);
CREATE INDEX intake_upload ON ledger.intake (upload_id) WHERE upload_id IS NOT NULL;
CREATE INDEX intake_received ON ledger.intake (received_at DESC);

CREATE TABLE ledger.study (
    study_uid        text PRIMARY KEY,
    site             text NOT NULL,
    created_at       timestamptz NOT NULL DEFAULT now(),
    version          integer NOT NULL DEFAULT 0,   -- instances that the FHIR ImagingStudy covers; grows with every one registered
    analysed_version integer NOT NULL DEFAULT 0,   -- version that the analyses cover
    registered_at    timestamptz,
    subject          text,                         -- Patient/<id>
    hold_reason      text,                         -- a code of imaging_core.errors; NULL: not held
    hold_detail      text,
    rejected_at      timestamptz,                  -- a person rejected the held study: it stays stored and is never linked
    held_at          timestamptz,
    tries            integer NOT NULL DEFAULT 0,   -- of the current step, since it last succeeded
    next_try_at      timestamptz,
    last_error       text,
    failed_at        timestamptz,                  -- set when the tries are used up; `imaging redrive` clears it
    traceparent      text NOT NULL DEFAULT ''
);
CREATE INDEX study_unfinished ON ledger.study (next_try_at NULLS FIRST)
    WHERE analysed_version < version AND hold_reason IS NULL AND failed_at IS NULL;
CREATE INDEX study_held ON ledger.study (held_at) WHERE hold_reason IS NOT NULL;
CREATE INDEX study_failed ON ledger.study (failed_at) WHERE failed_at IS NOT NULL;

CREATE TABLE ledger.instance (
    sop_uid             text PRIMARY KEY,
    study_uid           text NOT NULL REFERENCES ledger.study,
    series_uid          text NOT NULL,
    sop_class_uid       text NOT NULL,
    transfer_syntax_uid text NOT NULL,
    dataset_sha256      text NOT NULL,             -- of the bytes after the file meta information
    pixel_sha256        text,
    bytes               bigint NOT NULL,
    blob                text NOT NULL,             -- name in container `images`
    header              jsonb NOT NULL,            -- DICOM JSON model (PS3.18 Annex F) without bulk data
    own                 boolean NOT NULL DEFAULT false,  -- made by this system: never input of an analysis (R8)
    registered          boolean NOT NULL DEFAULT false,
    client              text NOT NULL,
    received_at         timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX instance_study ON ledger.instance (study_uid);
CREATE INDEX instance_unregistered ON ledger.instance (received_at, study_uid) WHERE NOT registered;

-- What a person decided about a held study, who and when. The latest row counts; the register step reads it.
CREATE TABLE ledger.hold_resolution (
    id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    study_uid text NOT NULL REFERENCES ledger.study,
    action    text NOT NULL CHECK (action IN ('link', 'create', 'reject')),
    subject   text,                                -- Patient/<id>, for `link`
    reason    text NOT NULL DEFAULT '',
    who       text NOT NULL,
    at        timestamptz NOT NULL DEFAULT now(),
    CHECK ((action = 'link') = (subject IS NOT NULL))
);
CREATE INDEX hold_resolution_study ON ledger.hold_resolution (study_uid, id);

CREATE TABLE ledger.analysis (
    study_uid   text NOT NULL REFERENCES ledger.study,
    task        text NOT NULL,                     -- '' where no model is there for the examination
    version     integer NOT NULL,                  -- study version that it covers
    state       text NOT NULL CHECK (state IN ('analysed', 'not_analysed', 'no_model')),
    model       text NOT NULL DEFAULT '',          -- name:version
    report      text NOT NULL DEFAULT '',          -- DiagnosticReport/<id>
    reason      text NOT NULL DEFAULT '',
    answer      jsonb NOT NULL,                    -- what the AI container said
    finished_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (study_uid, task)
);

-- Direct drops: what the uploader said of them. Patient fields stay here, never in blob names or metadata.
CREATE TABLE ledger.upload (
    upload_id  uuid PRIMARY KEY,
    client     text NOT NULL,
    site       text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    fields     jsonb NOT NULL DEFAULT '{}'
);
CREATE TABLE ledger.upload_file (
    blob         text PRIMARY KEY,                 -- name in container `incoming`
    upload_id    uuid NOT NULL REFERENCES ledger.upload,
    name         text NOT NULL,
    bytes        bigint NOT NULL,
    content_type text NOT NULL
);
CREATE INDEX upload_file_upload ON ledger.upload_file (upload_id);

-- An act and its audit stand or fall together: the event is queued in the act's transaction and delivered afterwards (A2).
CREATE TABLE ledger.audit_outbox (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    created_at   timestamptz NOT NULL DEFAULT now(),
    event        jsonb NOT NULL,
    delivered_at timestamptz
);
CREATE INDEX audit_undelivered ON ledger.audit_outbox (id) WHERE delivered_at IS NULL;

-- How far each delivery has come, in the words that the interfaces use.
CREATE VIEW ledger.delivery AS
SELECT i.*,
       s.hold_reason,
       CASE WHEN i.outcome <> 'accepted' THEN i.outcome
            WHEN s.rejected_at IS NOT NULL THEN 'rejected'
            WHEN s.hold_reason IS NOT NULL THEN 'held'
            ELSE 'accepted' END AS state
FROM ledger.intake i LEFT JOIN ledger.study s USING (study_uid);

GRANT USAGE ON SCHEMA ledger TO imaging_worker, imaging_page, imaging_worklist;
GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA ledger TO imaging_worker;
GRANT DELETE ON ledger.analysis TO imaging_worker;  -- "no model" gives way once an image that has one joins the study
GRANT INSERT ON ledger.audit_outbox TO imaging_page, imaging_worklist;
