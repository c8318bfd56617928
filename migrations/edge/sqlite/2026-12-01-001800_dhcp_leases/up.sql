-- Leases of DHCP pools, one row an address; until: seconds since 1970. They were one setting, written each ten seconds.
CREATE TABLE dhcp_leases (
    address TEXT PRIMARY KEY NOT NULL,
    mac TEXT NOT NULL,
    until BIGINT NOT NULL
);
INSERT OR REPLACE INTO dhcp_leases (address, mac, until)
SELECT json_extract(lease.value, '$.address'), json_extract(lease.value, '$.mac'),
       CAST(strftime('%s', json_extract(lease.value, '$.until')) AS INTEGER)
FROM settings, json_each(settings.value) AS lease
WHERE settings.name = 'leases' AND json_valid(settings.value)
  AND strftime('%s', json_extract(lease.value, '$.until')) IS NOT NULL;
DELETE FROM settings WHERE name = 'leases';
