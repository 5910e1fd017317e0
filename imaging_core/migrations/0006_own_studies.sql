-- What the pages may know of the ledger: the studies, and their instances, of the one patient whose pages are served.
--
-- An EHR's FHIR service may claim any study UID for any of its patients. Images and results of this system's own stores are
-- shown only where the ledger itself says whose they are. The patient is set per transaction (`imaging.subject`, Patient/<id>
-- at the imaging FHIR service); without it there is nothing to see, whatever the SQL says.

CREATE INDEX study_subject ON ledger.study (subject);

CREATE VIEW ledger.own_study WITH (security_barrier) AS
SELECT s.study_uid, s.subject, s.site,
       s.hold_reason IS NOT NULL AS held,        -- in doubt again: its images wait until a person has decided
       coalesce((SELECT r.action FROM ledger.hold_resolution r WHERE r.study_uid = s.study_uid ORDER BY r.id DESC LIMIT 1)
                = 'link', false) AS linked       -- a person linked it to another Patient than its header names
FROM ledger.study s
WHERE s.subject = nullif(current_setting('imaging.subject', true), '') AND s.rejected_at IS NULL;

CREATE VIEW ledger.own_instance WITH (security_barrier) AS
SELECT i.study_uid, i.series_uid, i.sop_uid, i.sop_class_uid, i.transfer_syntax_uid, i.blob, i.bytes, i.header, i.own, i.received_at,
       o.linked
FROM ledger.own_study o JOIN ledger.instance i USING (study_uid)
WHERE i.registered AND NOT o.held;

GRANT SELECT ON ledger.own_study, ledger.own_instance TO imaging_page;
