"""Dependencies point one way, and the engine keeps to itself; held on the syntax tree."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ENGINE = sorted((ROOT / "engine/livemig").rglob("*.py"))
PLUGIN = sorted((ROOT / "plugin/docker_livemig").rglob("*.py"))
SPAWNERS = ("subprocess", "multiprocessing")


def imported(tree: ast.AST) -> Iterator[str]:
    """Yield the full name of everything that is imported, wherever it is imported."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")


def packages(tree: ast.AST) -> set[str]:
    return {name.split(".")[0] or "." for name in imported(tree)}


def called(tree: ast.AST) -> set[str]:
    """Return the dotted names of what is called: ``print``, ``sys.exit``."""
    return {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}


def raised(tree: ast.AST) -> set[str]:
    return {
        ast.unparse(node.exc).split("(")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Raise) and node.exc is not None
    }


def parse(path: Path) -> ast.AST:
    return ast.parse(path.read_text(), str(path))


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_there_is_something_to_check() -> None:
    assert len(ENGINE) > 3
    assert len(PLUGIN) > 3


@pytest.mark.parametrize("path", ENGINE, ids=name)
def test_the_engine_knows_no_docker(path: Path) -> None:
    assert not packages(parse(path)) & {"docker_livemig", "docker", "."}


@pytest.mark.parametrize("path", ENGINE, ids=name)
def test_the_engine_prints_parses_and_exits_never(path: Path) -> None:
    tree = parse(path)
    forbidden = {"print", "input", "exit", "quit", "sys.exit"}
    assert not called(tree) & forbidden
    assert not raised(tree) & {"SystemExit", "KeyboardInterrupt"}
    assert not packages(tree) & {"argparse", "optparse", "getopt", "click"}
    assert "sys.stdout" not in path.read_text()


@pytest.mark.parametrize("path", [*ENGINE, *PLUGIN], ids=name)
def test_one_place_spawns(path: Path) -> None:
    if path != ROOT / "engine/livemig/spawn.py":
        assert not packages(parse(path)) & set(SPAWNERS)
        assert not {c for c in called(parse(path)) if c in ("os.system", "os.popen")}


@pytest.mark.parametrize("path", [*ENGINE, *PLUGIN], ids=name)
def test_no_pickles(path: Path) -> None:
    assert not packages(parse(path)) & {"pickle", "marshal", "shelve"}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("def f():\n    from docker_livemig import cli", {"docker_livemig"}),
        ("from . import x", {"."}),
        ("import docker.errors as e", {"docker"}),
    ],
)
def test_the_check_sees_what_it_must(source: str, found: set[str]) -> None:
    assert packages(ast.parse(source)) == found
    assert called(ast.parse("def f():\n    sys.exit(print(1))")) == {"sys.exit", "print"}
    assert raised(ast.parse("raise SystemExit(3)")) == {"SystemExit"}
