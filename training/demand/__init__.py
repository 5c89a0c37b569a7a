"""Daily demand per item: a global LSTM with direct multi-horizon quantiles."""
