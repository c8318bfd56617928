-- The overview counts jobs by site from an index alone, and finds the failures of a day without reading older ones.
CREATE INDEX jobs_by_state_site ON jobs (state, site);
CREATE INDEX jobs_by_state_end ON jobs (state, finished_at);
