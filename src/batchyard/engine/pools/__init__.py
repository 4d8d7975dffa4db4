"""Use cases of pools, and the loop that makes the nodes be what the pools want."""
