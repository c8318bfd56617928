-- The keys that orders are signed by. The first one's private half lies in a file beside the database; those after it are
-- encrypted under the vault's key. A site is signed to by the newest key it is known to trust.
CREATE TABLE signing_keys (
    id TEXT NOT NULL PRIMARY KEY,
    generation BIGINT NOT NULL UNIQUE,
    public TEXT NOT NULL,
    private TEXT,
    created_at BIGINT NOT NULL,
    retired_at BIGINT
);
ALTER TABLE sites ADD COLUMN signing_key TEXT;
