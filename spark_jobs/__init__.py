"""HOW tables are built: readers, ingest and one Spark job per table."""
