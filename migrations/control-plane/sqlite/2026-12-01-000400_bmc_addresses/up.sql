-- Where each machine's BMC is, so that no second machine of its site is given the same one.
CREATE TABLE machine_bmcs (
    machine TEXT PRIMARY KEY NOT NULL REFERENCES machines (id) ON DELETE CASCADE,
    site TEXT NOT NULL,
    address TEXT NOT NULL
);
INSERT INTO machine_bmcs (machine, site, address)
SELECT id, site, json_extract(details, '$.bmc.address') FROM machines WHERE json_extract(details, '$.bmc.address') IS NOT NULL;
CREATE INDEX machine_bmcs_by_address ON machine_bmcs (site, address);
