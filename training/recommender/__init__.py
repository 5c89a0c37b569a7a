"""What to show next: a sequential transformer over a user's history, with a softmax over the whole catalogue."""
