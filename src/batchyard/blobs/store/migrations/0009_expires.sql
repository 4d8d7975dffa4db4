-- When a blob is gone by itself.
ALTER TABLE blobs ADD COLUMN expires INTEGER;
CREATE INDEX blobs_expires ON blobs (expires) WHERE expires IS NOT NULL;
