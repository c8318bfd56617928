-- Faults from the event logs of BMCs that were told: edges report them many times. The entry itself, in hex, holds its
-- number and the BMC's time.
CREATE TABLE hardware_faults (
    machine TEXT NOT NULL,
    raw TEXT NOT NULL,
    told_at BIGINT NOT NULL,
    PRIMARY KEY (machine, raw)
);
