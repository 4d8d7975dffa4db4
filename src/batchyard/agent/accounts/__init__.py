"""Accounts on the machine."""
