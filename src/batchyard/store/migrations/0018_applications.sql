-- Applications and their packages: zip files that lie as blobs in the linked storage account.

CREATE TABLE application (
    pk ${NAME},
    id TEXT NOT NULL,
    display_name TEXT,
    allow_updates INTEGER NOT NULL DEFAULT 1,
    default_version TEXT,
    created BIGINT NOT NULL,
    modified BIGINT NOT NULL,
    version BIGINT NOT NULL DEFAULT 1
);
CREATE UNIQUE INDEX application_by_id ON application (lower(id));

-- `blob` is the name in the container of the packages; each upload has one of its own, so it also tells contents apart.
CREATE TABLE application_package (
    pk ${NAME},
    application_pk BIGINT NOT NULL,
    name TEXT NOT NULL,
    blob TEXT NOT NULL,
    bytes BIGINT NOT NULL,
    created BIGINT NOT NULL,
    version BIGINT NOT NULL DEFAULT 1
);
CREATE UNIQUE INDEX application_package_by_name ON application_package (application_pk, lower(name));
