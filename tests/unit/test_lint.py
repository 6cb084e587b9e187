"""The linters, as tests: style, format and types of every source in the repository."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import pace

REPO = Path(__file__).resolve().parents[2]


def _passes(*argv: str | Path) -> None:
    done = subprocess.run(
        argv, cwd=REPO, check=False, capture_output=True, text=True, timeout=pace.limit(110)
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _tool(name: str) -> Path:
    return Path(sys.executable).with_name(name)


def test_python_follows_the_rules() -> None:
    _passes(_tool("ruff"), "check", ".")


def test_python_is_formatted() -> None:
    _passes(_tool("ruff"), "format", "--check", ".")


def test_types_are_right() -> None:
    _passes(_tool("mypy"))


def test_c_is_formatted() -> None:
    clang_format = shutil.which("clang-format")
    if clang_format is None:
        pytest.skip("needs clang-format (make deps)")
    sources = [
        path
        for place in ("engine", "images", "kmod", "tests")
        for path in sorted((REPO / place).rglob("*.*"))
        if path.suffix in {".c", ".h", ".cc"}
    ]
    assert sources
    _passes(clang_format, "--dry-run", "-Werror", *sources)


def test_the_module_is_in_the_kernels_style() -> None:
    if not Path("/usr/src/linux-source-6.1.tar.xz").exists():
        pytest.skip("needs Debian's kernel sources, with checkpatch (make kernel-deps)")
    sources = [
        path
        for path in sorted((REPO / "kmod").rglob("*.[ch]"))
        if "selftests" not in path.parts and not path.name.endswith(".mod.c")
    ]
    assert sources
    _passes(REPO / "kernel-patch" / "checkpatch.sh", REPO / "build" / "checkpatch", *sources)
