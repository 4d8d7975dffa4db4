-- Who may read a container without a signature.
ALTER TABLE containers ADD COLUMN access TEXT;
