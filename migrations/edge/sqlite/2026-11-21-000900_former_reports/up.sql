CREATE TABLE former_reports (     -- how far a machine's earlier jobs came: an old order may be put in force again
    job TEXT NOT NULL PRIMARY KEY,
    kept_at BIGINT NOT NULL,      -- microseconds since 1970
    body TEXT NOT NULL            -- JSON of the report
);
