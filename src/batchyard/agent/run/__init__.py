"""One run of a task from its directory to its end."""
