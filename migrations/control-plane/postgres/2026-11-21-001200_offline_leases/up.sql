-- What sites may do with their machines while they are cut off: the lease of each machine as its edge is to hold it, and
-- the orders that were signed for it beforehand. An offer is known by its job until its site holds a later lease.
CREATE TABLE machine_leases (
    machine TEXT NOT NULL,
    site TEXT NOT NULL,
    revision BIGINT NOT NULL,
    basis TEXT NOT NULL,
    issued_at BIGINT NOT NULL,
    until BIGINT NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (machine, site)
);
CREATE INDEX machine_leases_by_site ON machine_leases (site);
CREATE TABLE offers (
    job TEXT NOT NULL PRIMARY KEY,
    machine TEXT NOT NULL,
    site TEXT NOT NULL,
    instance TEXT NOT NULL,
    kind TEXT NOT NULL,
    lease BIGINT NOT NULL,
    revision BIGINT NOT NULL,
    until BIGINT NOT NULL,
    body TEXT NOT NULL
);
CREATE INDEX offers_by_site ON offers (site, machine, lease);
-- No order of the control plane gets a revision that was offered.
ALTER TABLE orders ADD COLUMN reserved BIGINT NOT NULL DEFAULT 0;
ALTER TABLE sites ADD COLUMN takes_leases BOOLEAN NOT NULL DEFAULT FALSE;
ALTER TABLE sites ADD COLUMN emergency_code TEXT;
