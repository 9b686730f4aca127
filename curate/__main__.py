"""`python -m curate`: the command line, where no script was put on the path."""

import sys

from curate.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
