DROP TABLE settings;
DROP TABLE boots;
DROP TABLE reports;
DROP TABLE documents;
