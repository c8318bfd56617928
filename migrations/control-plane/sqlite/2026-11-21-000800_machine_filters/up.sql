-- Machines of one state, type or label are found by name without looking at all hundred thousand.
CREATE INDEX machines_by_state_name ON machines (state, name);
CREATE INDEX machines_by_type_name ON machines (machine_type, name);
CREATE INDEX machine_labels_by_value_machine ON machine_labels (name, value, machine);
DROP INDEX machine_labels_by_value;
