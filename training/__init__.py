"""HOW models are made: trainer, metrics, baselines, tracking, one folder per model."""
