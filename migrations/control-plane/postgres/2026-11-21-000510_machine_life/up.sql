-- Why a machine is kept out of use, and machines that are to be quarantined when their instance gives them back.
ALTER TABLE machines ADD COLUMN reason TEXT;
ALTER TABLE machines ADD COLUMN quarantine BOOLEAN NOT NULL DEFAULT FALSE;
