"""`python -m batchyard`, where the script of that name is not on the PATH."""

from __future__ import annotations

from batchyard.cli.main import main

if __name__ == "__main__":
    main()
