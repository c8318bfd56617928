CREATE INDEX machine_labels_by_value ON machine_labels (name, value);
DROP INDEX machine_labels_by_value_machine;
DROP INDEX machines_by_type_name;
DROP INDEX machines_by_state_name;
