-- Several servers share the catalogue and the directory of the bytes: which of them live, what each may still read, what is to go.

-- One row: what the directory says too, so that a server that sees another one is told so, and when it was last swept as a whole.
CREATE TABLE place (
    id TEXT NOT NULL,
    swept INTEGER NOT NULL DEFAULT 0
);

-- `beats` grows as long as a server lives, and is -1 once it was taken for dead: it may name no file any more, and what it left is
-- swept. It reads nothing that was given up under a number up to `mark`.
CREATE TABLE session (
    id TEXT NOT NULL UNIQUE,
    beats INTEGER NOT NULL,
    mark INTEGER NOT NULL
);

-- Data files that no row names any more, numbered as they were given up.
CREATE TABLE doomed (
    number ${NAME},
    file TEXT NOT NULL
);
CREATE INDEX doomed_file ON doomed (file);
