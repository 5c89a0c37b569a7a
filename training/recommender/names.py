"""Names of the sources of a list, without what it takes to ask them."""

from __future__ import annotations

NETWORK, CONTENT, POPULAR = "network", "content", "popular"
PAIRED = ("co_occurrence", "markov_chain", "item_knn", "ease", "repetition")
"""Sources that are floors as well: each knows how strongly one item speaks for another."""
SOURCES = (NETWORK, *PAIRED, CONTENT, POPULAR)
