"""The second stage of a recommendation: orders what the recommender retrieves by what is likely to come of showing it."""
