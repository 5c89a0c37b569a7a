"""What a shop tells while it runs: events and catalogue facts, kept at once, visible at once, and in the tables seconds later."""
