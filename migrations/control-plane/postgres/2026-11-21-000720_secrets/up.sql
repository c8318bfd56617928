-- A webhook's former secret signs beside the new one for a while, so that receivers can change over.
ALTER TABLE webhooks ADD COLUMN former_secret TEXT;
ALTER TABLE webhooks ADD COLUMN former_until BIGINT;
