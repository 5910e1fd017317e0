-- The latest decision on a study is that with the highest `sequence`: a rebuilt ledger keeps it, and numbers `id` anew.

CREATE OR REPLACE VIEW ledger.own_study WITH (security_barrier) AS
SELECT s.study_uid, s.subject, s.site,
       s.hold_reason IS NOT NULL AS held,
       coalesce((SELECT r.action FROM ledger.hold_resolution r WHERE r.study_uid = s.study_uid
                 ORDER BY r.sequence DESC LIMIT 1) = 'link', false) AS linked,
       (SELECT r.at FROM ledger.hold_resolution r WHERE r.study_uid = s.study_uid
        ORDER BY r.sequence DESC LIMIT 1) AS decided_at
FROM ledger.study s
WHERE s.subject = nullif(current_setting('imaging.subject', true), '') AND s.rejected_at IS NULL;
