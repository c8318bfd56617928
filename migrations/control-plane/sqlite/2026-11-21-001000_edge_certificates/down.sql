ALTER TABLE sites DROP COLUMN revoked_at;
ALTER TABLE sites DROP COLUMN certificate_until;
DROP TABLE edge_certificates;
