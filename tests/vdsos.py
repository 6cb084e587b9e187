"""vDSOs of kernels that this machine does not run."""

from __future__ import annotations

from livemig import vdso

BREAKPOINT = b"\xcc"


def other(code: bytes) -> bytes:
    """Return the image of another kernel: whoever runs its code, where nothing leads on, dies.

    It exports the same functions at the same addresses, so that a program that has this kernel's
    can be told to have it.
    """
    first = min(vdso.entries(code).values())
    return code[:first].ljust(len(code), BREAKPOINT)


def renamed(code: bytes, name: str, new: str) -> bytes:
    """Return an image whose function ``name`` has a ``new`` name of the same length."""
    assert len(name) == len(new)
    return code.replace(f"{name}\0".encode(), f"{new}\0".encode())


def without(code: bytes, *names: str) -> bytes:
    """Return an image that lacks functions."""
    for name in names:
        code = renamed(code, name, f"x{name[1:]}")
    return code
