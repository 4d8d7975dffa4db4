"""The words of the system: wire shapes, states, ids, errors. No I/O, no clock, no decisions."""
