ALTER TABLE machines DROP COLUMN quarantine;
ALTER TABLE machines DROP COLUMN reason;
