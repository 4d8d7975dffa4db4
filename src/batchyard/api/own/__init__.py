"""What is served beyond the service's own operations."""
