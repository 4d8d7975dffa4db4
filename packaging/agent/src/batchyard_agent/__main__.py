"""`python -m batchyard_agent`, where the script batchyard-agent is not on the PATH."""

import sys

from batchyard_agent import main

if __name__ == "__main__":
    sys.exit(main())
