DROP TABLE revoked_edges;
DROP TABLE edge_runs;
