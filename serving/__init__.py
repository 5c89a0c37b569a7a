"""HOW answers are given: graphs, gateway, HTTP."""
