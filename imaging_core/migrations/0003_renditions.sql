-- The archival rendition of an instance: a lossless copy beside the original, made when nothing else is to be done.

ALTER TABLE ledger.instance
    ADD COLUMN rendition               text,      -- name in container `images`
    ADD COLUMN rendition_syntax        text,      -- transfer syntax UID
    ADD COLUMN rendition_bytes         bigint,
    ADD COLUMN rendition_values_sha256 text,      -- of the stored pixel values, the same in original and rendition
    ADD COLUMN rendition_state         text CHECK (rendition_state IN ('stored', 'not-smaller', 'not-applicable', 'failed')),
                                                  -- NULL: not tried yet
    ADD COLUMN rendition_reason        text NOT NULL DEFAULT '',
    ADD COLUMN rendition_tries         integer NOT NULL DEFAULT 0,
    ADD COLUMN rendition_lease         timestamptz,  -- until then a worker has it, or it is not due again
    ADD CONSTRAINT rendition_whole CHECK ((rendition_state = 'stored') = (rendition IS NOT NULL)
        AND (rendition IS NULL) = (rendition_bytes IS NULL));
CREATE INDEX instance_without_rendition ON ledger.instance (received_at, study_uid) WHERE rendition_state IS NULL;
