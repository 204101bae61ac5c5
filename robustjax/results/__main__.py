"""Entry point of `python -m robustjax.results`."""

import sys

from robustjax.results import commands

if __name__ == "__main__":
    sys.exit(commands.main())
