-- The former version knows one sighting of each port: the newest stays.
CREATE TABLE discovered_by_port (
    mac TEXT NOT NULL PRIMARY KEY,
    site TEXT NOT NULL,
    seen TEXT NOT NULL,
    seen_at BIGINT NOT NULL
);
INSERT INTO discovered_by_port SELECT mac, site, seen, seen_at FROM discovered WHERE NOT EXISTS (
    SELECT 1 FROM discovered other WHERE other.mac = discovered.mac
        AND (other.seen_at, other.site) > (discovered.seen_at, discovered.site)
);
DROP TABLE discovered;
ALTER TABLE discovered_by_port RENAME TO discovered;
