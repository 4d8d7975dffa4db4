"""Directories of a node, and whose they are."""
