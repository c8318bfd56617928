-- The trace of the call that made a job, so that what an edge reports hours later joins it.
CREATE TABLE traces (
    job TEXT NOT NULL PRIMARY KEY REFERENCES jobs (id) ON DELETE CASCADE,
    parent TEXT NOT NULL,           -- W3C traceparent of the call
    ordered_at BIGINT               -- when its order was put in force
);
