-- Properties of the queue service, as each storage account set them.
CREATE TABLE services (
    account TEXT PRIMARY KEY,
    properties TEXT NOT NULL
);
