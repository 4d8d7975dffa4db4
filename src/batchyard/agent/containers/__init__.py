"""Running tasks in containers: which engine, which images, and the command that a task becomes."""
