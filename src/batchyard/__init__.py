"""Batchyard: the Azure Batch service on machines you own."""

__version__ = "0.1.0"
