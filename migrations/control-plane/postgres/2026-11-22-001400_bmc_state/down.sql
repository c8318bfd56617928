-- The former version does not know this kind of job.
DELETE FROM jobs WHERE kind = 'switch_power';
ALTER TABLE machines DROP COLUMN bmc_seen_at;
ALTER TABLE machines DROP COLUMN bmc_state;
