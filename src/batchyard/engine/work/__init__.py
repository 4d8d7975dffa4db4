"""Use cases of jobs and tasks."""
