-- DICOM SRs of signed reports, to be taken into their study (R8). The row is committed with the signature's audit: whatever
-- dies afterwards, the sweep finds what is to be taken in, and makes the SR from the signed copy where nobody has yet.

CREATE TABLE ledger.signed_object (
    blob       text PRIMARY KEY,                   -- name in container `results`
    study_uid  text NOT NULL,
    copy       text NOT NULL DEFAULT '',           -- name in container `signoffs`; '': the SR is there
    version_id text NOT NULL DEFAULT '',           -- of the report, as the FHIR service numbered what was signed
    noted_at   timestamptz NOT NULL DEFAULT now(),
    taken_at   timestamptz,                        -- nothing is left to be done
    fault      text NOT NULL DEFAULT '',           -- why it was not taken in: a code of imaging_core.errors
    CHECK (starts_with(blob, study_uid || '/')),
    CHECK (copy = '' OR starts_with(copy, study_uid || '/'))
);
CREATE INDEX signed_object_waiting ON ledger.signed_object (noted_at) WHERE taken_at IS NULL;

-- no role that serves pages reads it, or says what has become of an object
GRANT INSERT ON ledger.signed_object TO imaging_page, imaging_worklist;
GRANT SELECT, UPDATE ON ledger.signed_object TO imaging_worker;
