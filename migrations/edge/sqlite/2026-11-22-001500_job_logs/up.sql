CREATE TABLE job_logs (               -- of the last jobs of each machine
    job TEXT NOT NULL PRIMARY KEY,
    machine TEXT NOT NULL,
    rank BIGINT NOT NULL,             -- higher is newer
    boot TEXT,                        -- the agent that was heard last
    heard BIGINT NOT NULL,            -- up to where, in bytes of that boot's own log
    confirmed BIGINT NOT NULL         -- up to where the control plane holds it, in bytes
);
CREATE TABLE job_log_pieces (         -- their text, in bytes from the log's begin; whole pieces are forgotten
    job TEXT NOT NULL,
    begins BIGINT NOT NULL,
    ends BIGINT NOT NULL,
    text TEXT NOT NULL,
    PRIMARY KEY (job, begins)
);
