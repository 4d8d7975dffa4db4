-- Part of a data file, of what was written at once into a page blob.
ALTER TABLE segments ADD COLUMN skip INTEGER NOT NULL DEFAULT 0;
