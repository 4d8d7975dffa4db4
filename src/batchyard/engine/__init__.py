"""Use cases: the only writer of state. Every public function is one unit of work on a transaction."""
