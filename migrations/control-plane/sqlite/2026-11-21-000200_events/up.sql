-- The event stream, which replaces history. Append-only: `seq` alone is set later, once, when the event is numbered.
CREATE TABLE events (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    seq BIGINT UNIQUE,              -- given after the commit, in order and without gaps; readers go by it alone
    at BIGINT NOT NULL,
    kind TEXT NOT NULL,           -- a dotted word, compared byte by byte
    site TEXT,
    machine TEXT,
    instance TEXT,
    job TEXT,
    project TEXT,
    text TEXT NOT NULL,
    data TEXT NOT NULL              -- JSON
);
CREATE TABLE event_counter (        -- one row; its lock puts those who number events in a line
    id BIGINT NOT NULL PRIMARY KEY,
    last BIGINT NOT NULL
);
CREATE TABLE states (               -- since when each object is in its state
    object TEXT NOT NULL,           -- machine, instance, job, site
    id TEXT NOT NULL,
    state TEXT NOT NULL,
    since BIGINT NOT NULL,
    PRIMARY KEY (object, id)
);
INSERT INTO events (seq, at, kind, site, machine, instance, text, data)
SELECT row_number() OVER (ORDER BY h.seq), h.at,
    CASE WHEN h.object LIKE 'machine/%' THEN 'machine.' WHEN h.object LIKE 'instance/%' THEN 'instance.' ELSE 'site.' END
        || replace(h.what, ' ', '_'),
    CASE WHEN h.object LIKE 'machine/%' THEN (SELECT m.site FROM machines m WHERE m.id = substr(h.object, 9))
        WHEN h.object LIKE 'instance/%' THEN (SELECT i.site FROM instances i WHERE i.id = substr(h.object, 10))
        ELSE substr(h.object, 6) END,
    CASE WHEN h.object LIKE 'machine/%' THEN substr(h.object, 9) END,
    CASE WHEN h.object LIKE 'instance/%' THEN substr(h.object, 10) END,
    h.detail, '{}'
FROM history h ORDER BY h.seq;
INSERT INTO event_counter (id, last) SELECT 1, count(*) FROM events;
INSERT INTO states (object, id, state, since) SELECT 'machine', id, state, created_at FROM machines;
INSERT INTO states (object, id, state, since) SELECT 'instance', id, state, created_at FROM instances;
INSERT INTO states (object, id, state, since) SELECT 'job', id, state, COALESCE(finished_at, created_at) FROM jobs;
DROP TABLE history;
CREATE INDEX events_unnumbered ON events (id) WHERE seq IS NULL;
CREATE INDEX events_by_machine ON events (machine, seq);
CREATE INDEX events_by_instance ON events (instance, seq);
CREATE INDEX events_by_job ON events (job, seq);
CREATE INDEX events_by_site ON events (site, seq);
CREATE INDEX events_by_kind ON events (kind, seq);
CREATE INDEX states_by_state ON states (object, state, since);
