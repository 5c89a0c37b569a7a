-- One database for each that keeps tables of its own; Postgres runs this once, when its volume is empty.
CREATE DATABASE mlflow;
CREATE DATABASE features;
CREATE DATABASE releases;
