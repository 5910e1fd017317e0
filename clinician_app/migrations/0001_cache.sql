-- What the pages read: FHIR resources as one right saw them, for one patient. The schema may be dropped and filled anew at any time.
--
-- A row belongs to (server, access, patient): the FHIR service that answered, the right by which it was asked, the Patient's id there.
-- The role that serves pages sees the rows of the launch whose key its transaction has set, and no others, whatever its SQL says.

CREATE SCHEMA IF NOT EXISTS cache;

CREATE TABLE cache.reading (
    server   text NOT NULL CHECK (server <> ''),
    access   text NOT NULL CHECK (access <> ''),
    patient  text NOT NULL CHECK (patient <> ''),
    part     text NOT NULL,                    -- patient, studies, reports, findings
    read_at  timestamptz NOT NULL,             -- when the FHIR service answered
    PRIMARY KEY (server, access, patient, part)
);

CREATE TABLE cache.resource (
    server        text NOT NULL CHECK (server <> ''),
    access        text NOT NULL CHECK (access <> ''),
    patient       text NOT NULL CHECK (patient <> ''),
    part          text NOT NULL,
    resource_type text NOT NULL,
    resource_id   text NOT NULL,
    study_uid     text,                        -- of an ImagingStudy
    body          jsonb NOT NULL,
    PRIMARY KEY (server, access, patient, part, resource_type, resource_id)
);

ALTER TABLE cache.reading ENABLE ROW LEVEL SECURITY;
ALTER TABLE cache.reading FORCE ROW LEVEL SECURITY;
ALTER TABLE cache.resource ENABLE ROW LEVEL SECURITY;
ALTER TABLE cache.resource FORCE ROW LEVEL SECURITY;

-- current_setting is NULL before the first set_config of a session and '' after a transaction that set it: neither matches a row.
CREATE POLICY launch_patient ON cache.reading
    USING (server = current_setting('imaging.server', true)
       AND access = current_setting('imaging.access', true)
       AND patient = current_setting('imaging.patient', true));
CREATE POLICY launch_patient ON cache.resource
    USING (server = current_setting('imaging.server', true)
       AND access = current_setting('imaging.access', true)
       AND patient = current_setting('imaging.patient', true));

-- How far the pipeline has come with the studies that the launch may see: the view reads the ledger as its owner, and the policy above
-- still decides which studies there are to join.
CREATE VIEW cache.study_progress AS
SELECT r.study_uid,
       s.hold_reason IS NOT NULL AS held,
       s.failed_at IS NOT NULL AS failed,
       s.analysed_version >= s.version AND s.version > 0 AS settled,
       coalesce(
           (SELECT jsonb_agg(jsonb_build_object('task', a.task, 'state', a.state, 'reason', a.reason, 'model', a.model,
                                                'not_analysed', coalesce(a.answer -> 'not_analysed', '[]'::jsonb))
                             ORDER BY a.task)
            FROM ledger.analysis a WHERE a.study_uid = s.study_uid),
           '[]'::jsonb) AS analyses
FROM cache.resource r
JOIN ledger.study s ON s.study_uid = r.study_uid
WHERE r.part = 'studies';

GRANT USAGE ON SCHEMA cache TO imaging_page;
GRANT SELECT, INSERT, UPDATE, DELETE ON cache.reading, cache.resource TO imaging_page;
GRANT SELECT ON cache.study_progress TO imaging_page;
