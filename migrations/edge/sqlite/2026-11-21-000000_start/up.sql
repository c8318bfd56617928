-- Everything an edge must not forget. Times are microseconds since 1970.
CREATE TABLE documents (          -- signed commands as they came, the highest revision of each
    kind TEXT NOT NULL,           -- config, order, image
    subject TEXT NOT NULL,
    revision BIGINT NOT NULL,
    payload BLOB NOT NULL,        -- the whole envelope
    PRIMARY KEY (kind, subject)
);
CREATE TABLE reports (            -- where each machine stands with its order
    machine TEXT NOT NULL PRIMARY KEY,
    revision BIGINT NOT NULL,
    body TEXT NOT NULL            -- JSON of the report
);
CREATE TABLE boots (              -- the boot token of each machine's current job
    machine TEXT NOT NULL PRIMARY KEY,
    job TEXT NOT NULL,
    boot_key TEXT NOT NULL,       -- names the overlay in its URL
    token TEXT NOT NULL
);
CREATE TABLE settings (
    name TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
);
