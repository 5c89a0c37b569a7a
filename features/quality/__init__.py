"""Quality of tables: what is expected of them, what was found in each version, how far a feature drifted."""
