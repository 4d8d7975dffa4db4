-- The session of the server that works on a copy from elsewhere; empty with a catalogue in a file, which one server has.
ALTER TABLE fetches ADD COLUMN owner TEXT NOT NULL DEFAULT '';
