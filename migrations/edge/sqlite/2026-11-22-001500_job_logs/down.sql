DROP TABLE job_log_pieces;
DROP TABLE job_logs;
