-- How a machine's BMC was when it was last asked (JSON), and when that was. The time stands alone after the machine got another
-- BMC: what was read of the former one is older.
ALTER TABLE machines ADD COLUMN bmc_state TEXT;
ALTER TABLE machines ADD COLUMN bmc_seen_at BIGINT;
