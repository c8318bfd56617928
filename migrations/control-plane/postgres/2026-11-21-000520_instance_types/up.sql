-- The type an instance asks for, or is counted as while it has no machine: quotas by type look at it.
ALTER TABLE instances ADD COLUMN machine_type TEXT;
