DROP INDEX discovered_by_time;
-- The former version knows one sighting of each port: the newest stays.
DELETE FROM discovered WHERE EXISTS (
    SELECT 1 FROM discovered other WHERE other.mac = discovered.mac
        AND (other.seen_at, other.site) > (discovered.seen_at, discovered.site)
);
ALTER TABLE discovered DROP CONSTRAINT discovered_pkey;
ALTER TABLE discovered ADD PRIMARY KEY (mac);
