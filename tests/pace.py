"""How much longer everything takes on this machine than on those that the limits were set for.

Time limits of the tests end what hangs; a machine that is emulated hangs later. LIVEMIG_SLOW says
how often slower it is (tests.vm measures it), and every limit is made that much longer, here.
"""

from __future__ import annotations

import os

SLOW = max(float(os.environ.get("LIVEMIG_SLOW") or 1), 1.0)


def limit(seconds: float) -> float:
    """Return a time limit for this machine, from one for an ordinary machine; both in seconds."""
    return seconds * SLOW
