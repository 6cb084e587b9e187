"""What is wrong with what a peer sent, as errors of the tree.

A rebuilt process is made of numbers that came over the wire. Most are the kernel's to judge, some
do not even fit a structure: neither is a defect of ours.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager

from livemig.errors import LivemigError, ProcessGone, ProtocolError, TargetError
from livemig.stub.runner import StubCrashed
from livemig.stub.table import TableFull

_UNFIT = (ValueError, OverflowError, IndexError, KeyError, TypeError, struct.error, MemoryError)


@contextmanager
def refusing(step: str) -> Iterator[None]:
    """Raise ProtocolError for values that fit nowhere, TargetError for what the kernel refuses.

    ``step`` says what was being done. Errors of the tree pass, but for a table of system calls
    that would be too long, which says that there is too much of something.
    """
    try:
        yield
    except TableFull as error:
        raise ProtocolError(f"{step}: more than this version takes: {error.message}") from error
    except StubCrashed as error:  # its state broke it: rseq in memory that it may not write to
        raise TargetError(f"{step}: {error.message}") from error
    except LivemigError:
        raise
    except (ProcessLookupError, BrokenPipeError) as error:
        raise ProcessGone(f"{step}: the held process has ended") from error
    except OSError as error:
        raise TargetError(f"{step}: {error}") from error
    except _UNFIT as error:
        raise ProtocolError(f"{step}: the source sent what does not fit: {error!r}") from error
