-- Machine types, by rules on what a machine is. A machine's inventory gets a column of its own: agents write it, operators
-- write the rest. Labels get a table of their own, so that machines are found by them.
CREATE TABLE machine_types (
    name TEXT NOT NULL PRIMARY KEY,
    description TEXT NOT NULL,
    priority BIGINT NOT NULL,
    rules TEXT NOT NULL,
    created_at BIGINT NOT NULL
);
ALTER TABLE machines ADD COLUMN inventory TEXT;
ALTER TABLE machines ADD COLUMN machine_type TEXT;
ALTER TABLE machines ADD COLUMN type_pinned BOOLEAN NOT NULL DEFAULT FALSE;
ALTER TABLE machines ADD COLUMN type_reason TEXT;
ALTER TABLE machines ADD COLUMN typed_by BIGINT NOT NULL DEFAULT 0;
CREATE TABLE machine_labels (
    machine TEXT NOT NULL REFERENCES machines (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (machine, name)
);
CREATE INDEX machine_labels_by_value ON machine_labels (name, value);
CREATE INDEX machines_by_typed_by ON machines (typed_by);
CREATE INDEX machines_by_type ON machines (site, machine_type, state);
UPDATE machines SET inventory = details::json ->> 'inventory' WHERE json_typeof(details::json -> 'inventory') = 'object';
INSERT INTO machine_labels (machine, name, value)
    SELECT machines.id, label.key, label.value
    FROM machines, json_each_text(coalesce(details::json -> 'labels', '{}'::json)) AS label (key, value);
