"""The nodes of the graphs, one file each. A node answers a batch of requests at once and knows nothing of HTTP."""
