DROP INDEX images_by_family;
ALTER TABLE images DROP COLUMN machine_types;
ALTER TABLE images DROP COLUMN deprecated;
ALTER TABLE images DROP COLUMN version;
ALTER TABLE images DROP COLUMN family;
