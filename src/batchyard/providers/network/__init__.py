"""Networks of their own for nodes on this machine."""
