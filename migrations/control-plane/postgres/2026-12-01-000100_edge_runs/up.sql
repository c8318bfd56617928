-- Which run of a site's edge works, which ran before it, and which stand by (JSON): two boxes with one identity are told apart.
CREATE TABLE edge_runs (
    site TEXT NOT NULL PRIMARY KEY REFERENCES sites (id) ON DELETE CASCADE,
    state TEXT NOT NULL
);
-- The keys of edges that were revoked or replaced, so that they can be told.
CREATE TABLE revoked_edges (
    report_key TEXT NOT NULL PRIMARY KEY,
    site TEXT NOT NULL,
    revoked_at BIGINT NOT NULL
);
