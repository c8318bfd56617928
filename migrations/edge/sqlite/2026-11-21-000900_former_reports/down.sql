DROP TABLE former_reports;
