-- Properties of the service, as each storage account set them.
CREATE TABLE services (
    account TEXT PRIMARY KEY,
    properties TEXT NOT NULL
);
