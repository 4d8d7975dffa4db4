"""Blobs in a directory: catalogue, segments, uploads."""
