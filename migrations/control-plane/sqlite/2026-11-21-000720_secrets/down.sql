ALTER TABLE webhooks DROP COLUMN former_until;
ALTER TABLE webhooks DROP COLUMN former_secret;
