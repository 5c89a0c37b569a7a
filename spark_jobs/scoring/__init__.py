"""Batch use of models: what they say of everybody, as tables."""
