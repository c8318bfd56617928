-- What one site says it saw takes nothing of what another one saw.
CREATE TABLE discovered_by_site (
    mac TEXT NOT NULL,
    site TEXT NOT NULL,
    seen TEXT NOT NULL,
    seen_at BIGINT NOT NULL,
    PRIMARY KEY (site, mac)
);
INSERT INTO discovered_by_site SELECT mac, site, seen, seen_at FROM discovered;
DROP TABLE discovered;
ALTER TABLE discovered_by_site RENAME TO discovered;
CREATE INDEX discovered_by_time ON discovered (site, seen_at);
