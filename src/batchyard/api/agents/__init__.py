"""The endpoint that agents speak to."""
