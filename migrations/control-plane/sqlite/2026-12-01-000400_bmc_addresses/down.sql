DROP TABLE machine_bmcs;
