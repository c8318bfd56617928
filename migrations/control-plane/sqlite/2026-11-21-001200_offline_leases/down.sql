ALTER TABLE sites DROP COLUMN emergency_code;
ALTER TABLE sites DROP COLUMN takes_leases;
ALTER TABLE orders DROP COLUMN reserved;
DROP TABLE offers;
DROP TABLE machine_leases;
