DROP TABLE dhcp_leases;
