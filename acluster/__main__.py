"""Run the ``acluster`` command as ``python -m acluster``."""

import sys

from acluster.command_line import main

sys.exit(main())
