"""A container's health check: a program that Docker runs in it now and then, and that ends soon.

It is no part of what moves. Docker on the target runs its own from when the container runs there.
"""

from __future__ import annotations

from docker_livemig.containers import ContainerSpec

_SHELL = ("/bin/sh", "-c")
_TIMEOUT = 30.0  # Docker's own, in seconds (daemon/health.go)
_LONGEST = 40.0  # a freeze that waits for a probe has its limit


def command(spec: ContainerSpec) -> str:
    """Return the command line of the check as Docker's events have it; empty without a check."""
    test = (spec.config.get("Healthcheck") or {}).get("Test") or []
    if not test or test[0] == "NONE":
        return ""
    shell = spec.config.get("Shell") or _SHELL
    return " ".join([*(shell if test[0] == "CMD-SHELL" else ()), *test[1:]])


def patience(spec: ContainerSpec) -> float:
    """Return how long a probe may take to end, in seconds; 0 without a check."""
    if not command(spec):
        return 0.0
    timeout = spec.config["Healthcheck"].get("Timeout") or 0
    return min(timeout / 1e9 or _TIMEOUT, _LONGEST)
