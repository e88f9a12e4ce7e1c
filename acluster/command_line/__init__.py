"""The ``acluster`` command."""

from acluster.command_line._main import main

__all__ = ["main"]
