"""The online side of the feature store: one packed row per entity and view, embedded in SQLite or on Redis."""
