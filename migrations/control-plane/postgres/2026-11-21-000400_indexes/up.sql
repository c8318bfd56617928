-- Lists by site, state and name stay quick with a hundred thousand rows.
CREATE INDEX instances_by_name ON instances (name);
CREATE INDEX instances_by_site ON instances (site, id);
CREATE INDEX instances_by_project_state ON instances (project, state);
CREATE INDEX jobs_by_site ON jobs (site, id);
CREATE INDEX jobs_by_state_id ON jobs (state, id);
CREATE INDEX machines_by_site_name ON machines (site, name);
DROP INDEX jobs_by_state;
DROP INDEX instances_by_project;
