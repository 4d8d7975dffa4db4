"""What speaks HTTP: signatures, operations, documents."""
