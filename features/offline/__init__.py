"""The offline side of the feature store: exact point-in-time joins over tables of the lake."""
