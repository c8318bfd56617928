CREATE TABLE webhooks (
    id TEXT NOT NULL PRIMARY KEY,
    url TEXT NOT NULL,
    kinds TEXT,                     -- JSON list of kinds; NULL is all
    sites TEXT,                     -- JSON list of sites; NULL is all
    secret TEXT NOT NULL,           -- encrypted
    active BOOLEAN NOT NULL,
    position BIGINT NOT NULL,       -- up to which event deliveries were made
    lease_holder TEXT,              -- the replica that delivers
    lease_until BIGINT NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE TABLE deliveries (
    id TEXT NOT NULL PRIMARY KEY,
    webhook TEXT NOT NULL REFERENCES webhooks (id) ON DELETE CASCADE,
    seq BIGINT NOT NULL,            -- of the event
    kind TEXT NOT NULL,
    state TEXT NOT NULL,            -- waiting, delivered, dead
    attempts INTEGER NOT NULL,
    created_at BIGINT NOT NULL,
    next_at BIGINT NOT NULL,
    finished_at BIGINT,
    status INTEGER,                 -- of the last answer
    error TEXT,                     -- of the last attempt
    UNIQUE (webhook, seq)
);
CREATE INDEX deliveries_by_state ON deliveries (webhook, state, seq);
