"""The stub: a table of system calls, run inside another process."""

from livemig.stub.blob import hold_path
from livemig.stub.runner import Stub
from livemig.stub.table import CallFailed, Table

__all__ = ["CallFailed", "Stub", "Table", "hold_path"]
