-- Images as versions of a family, and the machine types (a JSON list) they are for: of all if it is empty.
ALTER TABLE images ADD COLUMN family TEXT;
ALTER TABLE images ADD COLUMN version TEXT;
ALTER TABLE images ADD COLUMN deprecated BOOLEAN NOT NULL DEFAULT FALSE;
ALTER TABLE images ADD COLUMN machine_types TEXT NOT NULL DEFAULT '[]';
CREATE UNIQUE INDEX images_by_family ON images (family, version);
