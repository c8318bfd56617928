CREATE TABLE local_operations (       -- what was asked for at the box while it was cut off, done or refused
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    at BIGINT NOT NULL,               -- microseconds since 1970
    uid BIGINT NOT NULL,              -- who asked, as the kernel says
    operation TEXT NOT NULL,
    machine TEXT NOT NULL,            -- its id, or what was given if that is no machine
    job TEXT,                         -- the offer that was taken
    revision BIGINT,
    refused TEXT                      -- the code of the refusal
);
CREATE UNIQUE INDEX local_operations_by_job ON local_operations (job);
CREATE TABLE machine_leases (         -- what may be done with a machine while the site is cut off, as it came
    machine TEXT NOT NULL PRIMARY KEY,
    revision BIGINT NOT NULL,
    payload BLOB NOT NULL
);
