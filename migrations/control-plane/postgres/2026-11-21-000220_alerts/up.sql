CREATE TABLE alert_rules (
    id TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    condition TEXT NOT NULL,        -- JSON
    webhooks TEXT NOT NULL,         -- JSON list of ids
    emails TEXT NOT NULL,           -- JSON list of addresses
    active BOOLEAN NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE TABLE alerts (
    id TEXT NOT NULL PRIMARY KEY,
    rule TEXT NOT NULL REFERENCES alert_rules (id) ON DELETE CASCADE,
    object TEXT NOT NULL,           -- machine/ID, instance/ID, job/ID, site/ID
    site TEXT,
    text TEXT NOT NULL,
    opened_at BIGINT NOT NULL,
    resolved_at BIGINT
);
CREATE UNIQUE INDEX alerts_open ON alerts (rule, object) WHERE resolved_at IS NULL;
CREATE TABLE mails (
    id TEXT NOT NULL PRIMARY KEY,
    recipient TEXT NOT NULL,
    subject TEXT NOT NULL,
    body TEXT NOT NULL,
    state TEXT NOT NULL,            -- waiting, delivered, dead
    attempts INTEGER NOT NULL,
    created_at BIGINT NOT NULL,
    next_at BIGINT NOT NULL,        -- while a replica sends it: when another may
    error TEXT
);
CREATE INDEX mails_by_state ON mails (state, next_at);
CREATE TABLE leases (               -- who does what only one may do at a time
    name TEXT NOT NULL PRIMARY KEY,
    holder TEXT NOT NULL,
    until BIGINT NOT NULL
);
