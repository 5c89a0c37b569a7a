"""Whether and when a user buys next."""
