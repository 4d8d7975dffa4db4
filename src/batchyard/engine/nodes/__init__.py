"""What nodes report, are told, and what is done to them."""
