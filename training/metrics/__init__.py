"""Pure functions on arrays, one file per kind of task; `names` is the closed list of what may be logged."""
