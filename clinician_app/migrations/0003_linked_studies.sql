-- When a person linked a study to another Patient than its header names: what is served of it says so (Original Attributes).
-- The views keep their columns; a column more at the end of each.

CREATE OR REPLACE VIEW ledger.own_study WITH (security_barrier) AS
SELECT s.study_uid, s.subject, s.site,
       s.hold_reason IS NOT NULL AS held,
       coalesce((SELECT r.action FROM ledger.hold_resolution r WHERE r.study_uid = s.study_uid ORDER BY r.id DESC LIMIT 1)
                = 'link', false) AS linked,
       (SELECT max(r.at) FROM ledger.hold_resolution r WHERE r.study_uid = s.study_uid) AS decided_at
FROM ledger.study s
WHERE s.subject = nullif(current_setting('imaging.subject', true), '') AND s.rejected_at IS NULL;

CREATE OR REPLACE VIEW ledger.own_instance WITH (security_barrier) AS
SELECT i.study_uid, i.series_uid, i.sop_uid, i.sop_class_uid, i.transfer_syntax_uid, i.blob, i.bytes, i.header, i.own, i.received_at,
       o.linked, o.decided_at
FROM ledger.own_study o JOIN ledger.instance i USING (study_uid)
WHERE i.registered AND NOT o.held;

GRANT SELECT ON ledger.own_study, ledger.own_instance TO imaging_page;
