-- Archives that were dropped: one row each, which says how many files it holds, and one row per file. What became of a file is its
-- delivery in ledger.intake, like any other's: an archive is no delivery itself, so that nothing is counted twice.

CREATE TABLE ledger.drop_archive (
    delivery_key text PRIMARY KEY,                 -- drop:<blob>:<etag>, to which its members add #<ordinal>
    blob         text NOT NULL,                    -- name in container `incoming`
    upload_id    uuid,
    members      integer NOT NULL,
    opened_at    timestamptz NOT NULL DEFAULT now(),
    finished_at  timestamptz                       -- every member has its delivery
);
CREATE INDEX drop_archive_upload ON ledger.drop_archive (upload_id) WHERE upload_id IS NOT NULL;

CREATE TABLE ledger.drop_member (
    delivery_key text PRIMARY KEY,                 -- of the member's own delivery
    archive      text NOT NULL REFERENCES ledger.drop_archive,
    ordinal      integer NOT NULL,
    name         text NOT NULL                     -- as the archive has it; a label, never a path
);
CREATE INDEX drop_member_archive ON ledger.drop_member (archive, ordinal);

GRANT SELECT, INSERT, UPDATE ON ledger.drop_archive, ledger.drop_member TO imaging_worker;
