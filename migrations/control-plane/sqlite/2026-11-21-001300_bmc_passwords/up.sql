-- Jobs of a machine alone, whatever instance holds it. SQLite cannot drop NOT NULL, and a table made anew would take the rows
-- that refer to it along (traces): so the column is made anew. No index has it.
ALTER TABLE jobs ADD COLUMN of_instance TEXT;
UPDATE jobs SET of_instance = instance;
ALTER TABLE jobs DROP COLUMN instance;
ALTER TABLE jobs RENAME COLUMN of_instance TO instance;
-- What a machine's BMC may have as its password instead of the one on record (JSON, encrypted): of changes whose end is not
-- known.
ALTER TABLE machines ADD COLUMN bmc_candidates TEXT;
