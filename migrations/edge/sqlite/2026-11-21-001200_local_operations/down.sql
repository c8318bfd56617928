DROP TABLE machine_leases;
DROP TABLE local_operations;
