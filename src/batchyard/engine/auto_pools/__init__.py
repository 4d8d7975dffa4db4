"""Jobs with a pool of their own."""
