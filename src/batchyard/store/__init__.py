"""SQL lives here and nowhere else: rows are the only truth, the engine is their only writer."""
