-- Certificates given to edges: nobody comes in with another one, and those of a lost box are taken back.
CREATE TABLE edge_certificates (
    serial TEXT NOT NULL PRIMARY KEY,
    site TEXT NOT NULL,
    issued_at BIGINT NOT NULL,
    not_after BIGINT NOT NULL,
    revoked_at BIGINT
);
CREATE INDEX edge_certificates_site ON edge_certificates (site);
ALTER TABLE sites ADD COLUMN certificate_until BIGINT;
ALTER TABLE sites ADD COLUMN revoked_at BIGINT;
