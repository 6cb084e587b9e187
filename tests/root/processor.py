"""What a processor may be without, and a test then has to be skipped, whatever is installed."""

from __future__ import annotations

from docker_livemig.far import facts

_FEATURES = {
    "key": "pku",
    "keyed": "pku",
    "keyed-code": "pku",
    "only-executed": "pku",
    "no-cpuid": "cpuid_fault",
    "tiles-allowed": "amx_tile",
    "tiles-in-use": "amx_tile",
}
"""By what a program asks for: the flag of /proc/cpuinfo that it takes."""


def why_not(name: str) -> str:
    """Return the reason for which a program may not get here what it asked for."""
    flag = _FEATURES.get(name)
    if flag and flag not in facts("peer").cpu_flags:
        return f"this processor has no {flag}, which {name} takes"
    return f"this machine has no {name}, or does not allow it"
