"""Databases that hold a store, each behind the interface of `base`; the rest of the store knows none of them."""
