"""Which ready task goes to which node, and who makes room."""
