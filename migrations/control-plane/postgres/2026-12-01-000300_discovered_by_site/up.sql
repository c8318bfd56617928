-- What one site says it saw takes nothing of what another one saw.
ALTER TABLE discovered DROP CONSTRAINT discovered_pkey;
ALTER TABLE discovered ADD PRIMARY KEY (site, mac);
CREATE INDEX discovered_by_time ON discovered (site, seen_at);
