"""Pure decisions: `now` is an argument, nothing is read or written."""
