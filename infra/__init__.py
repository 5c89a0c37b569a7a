"""WHERE things run: settings, clock, home folder, the lake, logs."""
