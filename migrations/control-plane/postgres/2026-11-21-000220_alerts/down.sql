DROP TABLE leases;
DROP TABLE mails;
DROP TABLE alerts;
DROP TABLE alert_rules;
