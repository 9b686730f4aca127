"""`python -m curate`: the command line without the installed script."""

import sys

from curate.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
