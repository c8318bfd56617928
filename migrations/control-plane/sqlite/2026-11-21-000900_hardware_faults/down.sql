DROP TABLE hardware_faults;
