"""The loop that runs formulas, and what clients set of them."""
