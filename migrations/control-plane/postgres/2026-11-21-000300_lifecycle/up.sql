-- What a job is for, how it is ranked, and why it waits; instances that are locked against change.
ALTER TABLE jobs ADD COLUMN kind TEXT NOT NULL DEFAULT 'install';
ALTER TABLE jobs ADD COLUMN priority BIGINT NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN waiting TEXT;
ALTER TABLE instances ADD COLUMN locked BOOLEAN NOT NULL DEFAULT FALSE;
