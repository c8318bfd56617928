-- What edges and agents said of their jobs while they worked, in pieces that do not overlap. The oldest fall out when a log is
-- too long, and all of them some time after the job's end.
CREATE TABLE job_logs (
    job TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    begins BIGINT NOT NULL,         -- in bytes from the log's begin
    ends BIGINT NOT NULL,
    text TEXT NOT NULL,
    at BIGINT NOT NULL,             -- when it came
    PRIMARY KEY (job, begins)
);
CREATE INDEX job_logs_by_at ON job_logs (at, job);
