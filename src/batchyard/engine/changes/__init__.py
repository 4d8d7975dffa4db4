"""One call per resource for a change of its state: table, version guard, columns, counters and event (decision D19).

Nothing else writes a `state`. Each call gives the row as it is after it, so that nobody reads it again or goes on with the old one.
It raises IllegalChange or Conflict when what the caller saw is no longer so: the store undoes the unit and runs it again.
"""
