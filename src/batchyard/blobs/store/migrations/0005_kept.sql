-- What was overwritten or deleted and is kept.
ALTER TABLE blobs ADD COLUMN version TEXT;
ALTER TABLE blobs ADD COLUMN deleted INTEGER;
ALTER TABLE blobs ADD COLUMN until INTEGER;
CREATE INDEX blobs_until ON blobs (until) WHERE until IS NOT NULL;
ALTER TABLE containers ADD COLUMN deleted_name TEXT;
ALTER TABLE containers ADD COLUMN deleted INTEGER;
ALTER TABLE containers ADD COLUMN until INTEGER;
ALTER TABLE containers ADD COLUMN version TEXT;
CREATE INDEX containers_kept ON containers (account, deleted_name) WHERE deleted_name IS NOT NULL;
