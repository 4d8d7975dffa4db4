"""What a client asks for is allowed, and what it leaves open is filled in."""
