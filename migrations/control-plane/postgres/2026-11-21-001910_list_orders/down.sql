DROP TABLE machine_words;
CREATE INDEX instances_by_state ON instances (state);
CREATE INDEX instances_by_name ON instances (name);
DROP INDEX jobs_by_created;
DROP INDEX instances_by_created;
DROP INDEX instances_by_state_id;
DROP INDEX instances_by_name_id;
DROP INDEX machines_by_type_order;
DROP INDEX machines_by_created;
