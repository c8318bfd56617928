-- Jobs of a machine alone, whatever instance holds it.
ALTER TABLE jobs ALTER COLUMN instance DROP NOT NULL;
-- What a machine's BMC may have as its password instead of the one on record (JSON, encrypted): of changes whose end is not
-- known.
ALTER TABLE machines ADD COLUMN bmc_candidates TEXT;
