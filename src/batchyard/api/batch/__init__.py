"""The operations of the service."""
