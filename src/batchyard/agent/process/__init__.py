"""Starting, limiting and ending what tasks run."""
