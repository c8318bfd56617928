ALTER TABLE sites DROP COLUMN signing_key;
DROP TABLE signing_keys;
