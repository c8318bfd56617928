-- Uploads of images under way: what they have stored is used by no image yet, and is not to be swept.
CREATE TABLE uploads (
    id TEXT NOT NULL PRIMARY KEY,
    started_at BIGINT NOT NULL,
    touched_at BIGINT NOT NULL
);
