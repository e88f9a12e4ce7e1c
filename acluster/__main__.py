"""``python -m acluster`` is the command ``acluster``."""

import sys

from acluster.command_line import main

sys.exit(main())
