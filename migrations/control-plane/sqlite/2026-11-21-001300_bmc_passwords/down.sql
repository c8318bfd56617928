ALTER TABLE machines DROP COLUMN bmc_candidates;
DELETE FROM jobs WHERE instance IS NULL;
ALTER TABLE jobs ADD COLUMN of_instance TEXT NOT NULL DEFAULT '';
UPDATE jobs SET of_instance = instance;
ALTER TABLE jobs DROP COLUMN instance;
ALTER TABLE jobs RENAME COLUMN of_instance TO instance;
