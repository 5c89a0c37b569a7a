"""WHAT the data means: columns, tables, views, services, the feature store."""
