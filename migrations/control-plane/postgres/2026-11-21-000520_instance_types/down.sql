ALTER TABLE instances DROP COLUMN machine_type;
