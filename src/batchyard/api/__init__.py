"""The Azure Batch REST API: decode, call one engine function, encode."""
