DROP INDEX jobs_by_state_end;
DROP INDEX jobs_by_state_site;
