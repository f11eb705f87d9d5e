"""The command line: ``geoattn COMMAND``. :mod:`geoattn.commands` has the commands."""

import sys

from geoattn.commands.running import main

if __name__ == "__main__":
    sys.exit(main())
