-- Lists in another order than their usual one: what orders them, and what tells rows of one value apart.
CREATE INDEX machines_by_created ON machines (created_at, name);
CREATE INDEX machines_by_type_order ON machines (COALESCE(machine_type, ''), name);
CREATE INDEX instances_by_name_id ON instances (name, id);
CREATE INDEX instances_by_state_id ON instances (state, id);
CREATE INDEX instances_by_created ON instances (created_at, id);
CREATE INDEX jobs_by_created ON jobs (created_at, id);
DROP INDEX instances_by_name;
DROP INDEX instances_by_state;
-- What machines are looked for by, in small letters: name, address, ports, address of the BMC, serial number. Beside the
-- machines, whose rows are long, so that all of it is read quickly.
CREATE TABLE machine_words (
    machine TEXT NOT NULL PRIMARY KEY REFERENCES machines (id) ON DELETE CASCADE,
    words TEXT NOT NULL
);
INSERT INTO machine_words (machine, words)
SELECT m.id, lower(m.name || char(10) || m.address
    || COALESCE(char(10) || (SELECT group_concat(p.mac, char(10)) FROM macs p WHERE p.machine = m.id), '')
    || COALESCE(char(10) || (json_extract(m.details, '$.bmc.address')), '')
    || COALESCE(char(10) || (json_extract(m.inventory, '$.serial')), ''))
FROM machines m;
