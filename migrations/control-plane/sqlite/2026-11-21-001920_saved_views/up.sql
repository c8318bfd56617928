-- Views of lists that users saved for themselves.
CREATE TABLE saved_views (
    holder TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    page TEXT NOT NULL,
    query TEXT NOT NULL,            -- as after `?`
    shown TEXT,                     -- JSON: names of columns, in their order
    saved_at BIGINT NOT NULL,
    PRIMARY KEY (holder, name)
);
