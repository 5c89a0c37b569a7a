"""Sources: from files, Delta tables and databases to rows of raw tables.

parts (what is there, what is new) -> csv_files, json_lines, arrow_files, postgres (Arrow batches) -> explode (lists become
records) -> staging (Parquet) -> values and rules (columns of a raw table, reasons against a row) -> changes and returns
(duplicates, corrections, links).
The public sets that are known by their headers have a file each.
"""
