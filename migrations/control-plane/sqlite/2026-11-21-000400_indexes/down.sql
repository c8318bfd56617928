CREATE INDEX instances_by_project ON instances (project);
CREATE INDEX jobs_by_state ON jobs (state);
DROP INDEX machines_by_site_name;
DROP INDEX jobs_by_state_id;
DROP INDEX jobs_by_site;
DROP INDEX instances_by_project_state;
DROP INDEX instances_by_site;
DROP INDEX instances_by_name;
