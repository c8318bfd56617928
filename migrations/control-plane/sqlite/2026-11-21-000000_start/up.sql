-- Portable columns: ids and documents are TEXT (documents JSON), times are microseconds since 1970.
CREATE TABLE settings (
    name TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
);
CREATE TABLE credentials (          -- API and set-up tokens: only their hashes
    hash TEXT NOT NULL PRIMARY KEY,
    kind TEXT NOT NULL,             -- api, setup
    name TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    used_at BIGINT
);
CREATE TABLE sites (
    id TEXT NOT NULL PRIMARY KEY,
    revision BIGINT NOT NULL,       -- of the configuration; grows with each change
    config TEXT NOT NULL,
    report_key TEXT,                -- the rest is there once an edge has joined
    sealing_key TEXT,
    chunk_key TEXT,                 -- encrypted
    online BOOLEAN NOT NULL,
    last_seen BIGINT,
    created_at BIGINT NOT NULL
);
CREATE TABLE join_tokens (
    id TEXT NOT NULL PRIMARY KEY,
    site TEXT NOT NULL REFERENCES sites (id),
    secret TEXT NOT NULL,           -- encrypted: needed to check the proof
    expires_at BIGINT NOT NULL,
    used_at BIGINT
);
CREATE TABLE machines (
    id TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    site TEXT NOT NULL REFERENCES sites (id),
    state TEXT NOT NULL,
    address TEXT NOT NULL,
    details TEXT NOT NULL,
    bmc_password TEXT,              -- encrypted
    live_job TEXT,                  -- a machine has at most one
    version BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    UNIQUE (site, address)
);
CREATE TABLE macs (
    mac TEXT NOT NULL PRIMARY KEY,
    machine TEXT NOT NULL REFERENCES machines (id) ON DELETE CASCADE
);
CREATE TABLE images (
    id TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    manifest TEXT NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE TABLE instances (
    id TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    site TEXT NOT NULL REFERENCES sites (id),
    machine TEXT,
    image TEXT NOT NULL,
    state TEXT NOT NULL,
    job TEXT NOT NULL,
    wish TEXT NOT NULL,             -- what the tenant asked for; user-data encrypted
    created_at BIGINT NOT NULL
);
CREATE TABLE jobs (
    id TEXT NOT NULL PRIMARY KEY,
    instance TEXT NOT NULL,
    site TEXT NOT NULL,
    machine TEXT,
    state TEXT NOT NULL,            -- queued, running, done, failed, cancelled
    failure TEXT,
    deadline BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    finished_at BIGINT
);
CREATE TABLE orders (               -- what each machine is to do now
    machine TEXT NOT NULL PRIMARY KEY,
    site TEXT NOT NULL,
    job TEXT NOT NULL,
    revision BIGINT NOT NULL,
    body TEXT NOT NULL
);
CREATE TABLE reports (              -- where each machine stands
    machine TEXT NOT NULL PRIMARY KEY,
    site TEXT NOT NULL,
    job TEXT NOT NULL,
    revision BIGINT NOT NULL,
    body TEXT NOT NULL
);
CREATE TABLE job_reports (          -- the last report of each job, kept when the machine has moved on
    job TEXT NOT NULL PRIMARY KEY,
    revision BIGINT NOT NULL,
    body TEXT NOT NULL
);
CREATE TABLE discovered (           -- machines nobody has enrolled
    mac TEXT NOT NULL PRIMARY KEY,
    site TEXT NOT NULL,
    seen TEXT NOT NULL,
    seen_at BIGINT NOT NULL
);
CREATE TABLE idempotency (          -- answers to repeat
    id TEXT NOT NULL PRIMARY KEY,
    request TEXT NOT NULL,
    status INTEGER NOT NULL,
    body TEXT NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE TABLE history (              -- append-only
    seq INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    at BIGINT NOT NULL,
    object TEXT NOT NULL,
    what TEXT NOT NULL,
    detail TEXT NOT NULL
);
CREATE INDEX machines_by_site ON machines (site, state);
CREATE INDEX instances_by_state ON instances (state);
CREATE INDEX jobs_by_state ON jobs (state);
CREATE INDEX orders_by_site ON orders (site);
CREATE INDEX reports_by_site ON reports (site);
CREATE INDEX history_by_object ON history (object);
