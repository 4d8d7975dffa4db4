"""Queues: the Queue service's wire protocol over a catalogue of messages."""
