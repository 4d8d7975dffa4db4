"""Job schedules: they make jobs when these are due."""
