"""`make bench`: measures a server of its own on this machine and prints each figure beside its yardstick of the same run."""

from __future__ import annotations

import sys

if __name__ == "__main__":
    sys.dont_write_bytecode = True  # nothing is written into the project
    from measure import main

    main()
