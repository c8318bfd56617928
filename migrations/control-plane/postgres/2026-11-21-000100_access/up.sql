-- People, what they may do and where, and who did what. Times are microseconds since 1970.
CREATE TABLE users (
    id TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    email TEXT,
    password TEXT,                  -- Argon2id in PHC form; none: no log-in by password
    subject TEXT UNIQUE,            -- who they are at the single sign-on provider
    disabled BOOLEAN NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE TABLE roles (                -- custom ones; the built-in ones are in the program
    name TEXT NOT NULL PRIMARY KEY,
    permissions TEXT NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE TABLE grants (
    id TEXT NOT NULL PRIMARY KEY,
    holder TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    role TEXT NOT NULL,
    scope TEXT NOT NULL,            -- global, site:NAME, project:NAME
    created_at BIGINT NOT NULL,
    UNIQUE (holder, role, scope)
);
CREATE TABLE projects (
    id TEXT NOT NULL PRIMARY KEY,
    description TEXT NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE TABLE quotas (
    project TEXT NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    machine_type TEXT NOT NULL,     -- '*': all types together
    machines BIGINT NOT NULL,
    PRIMARY KEY (project, machine_type)
);
CREATE TABLE sessions (
    hash TEXT NOT NULL PRIMARY KEY,
    holder TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    csrf TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    used_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    address TEXT NOT NULL
);
CREATE TABLE api_keys (
    id TEXT NOT NULL PRIMARY KEY,
    hash TEXT NOT NULL UNIQUE,
    holder TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    permissions TEXT,               -- JSON list it is narrowed to; none: all its holder may
    created_at BIGINT NOT NULL,
    expires_at BIGINT,
    UNIQUE (holder, name)
);
CREATE TABLE ssh_keys (
    id TEXT NOT NULL PRIMARY KEY,
    holder TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    public_key TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    UNIQUE (holder, name)
);
CREATE TABLE audit (                -- append-only: nothing in the program changes or removes a row
    seq BIGSERIAL PRIMARY KEY,
    at BIGINT NOT NULL,
    actor TEXT NOT NULL,            -- the user's name, or what acted
    via TEXT NOT NULL,              -- session, key, token, none
    address TEXT NOT NULL,
    action TEXT NOT NULL,           -- as in site.update; of a refused call its method and route
    object TEXT NOT NULL,
    outcome TEXT NOT NULL,          -- done, or the code of the refusal
    before TEXT,
    after TEXT
);
CREATE INDEX audit_by_object ON audit (object);
ALTER TABLE instances ADD COLUMN project TEXT NOT NULL DEFAULT 'default';
CREATE INDEX instances_by_project ON instances (project);
INSERT INTO projects (id, description, created_at) VALUES ('default', 'where instances go that name no project', 0);
-- Who held an API token until now could do everything, and goes on doing so as a user of its name.
INSERT INTO users (id, name, disabled, created_at)
    SELECT DISTINCT 'u-' || name, name, FALSE, 0 FROM credentials WHERE kind = 'api';
INSERT INTO grants (id, holder, role, scope, created_at)
    SELECT 'g-' || id, id, 'admin', 'global', 0 FROM users;
INSERT INTO api_keys (id, hash, holder, name, created_at)
    SELECT hash, hash, 'u-' || name, 'first-' || hash, created_at FROM credentials WHERE kind = 'api';
DELETE FROM credentials WHERE kind = 'api';
