-- A higher number each time that the lease is taken: what its earlier holders still had in hand is told from it (decision D20).
ALTER TABLE lease ADD COLUMN fence BIGINT NOT NULL DEFAULT 0;
