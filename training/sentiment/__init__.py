"""sentiment: is a review good or bad, and how sure is that; a text network with a tokenizer learned from the shop's own reviews."""
