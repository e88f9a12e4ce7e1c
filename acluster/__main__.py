"""``python -m acluster`` is the command ``acluster``."""

import sys

from acluster._command_line import main

sys.exit(main())
