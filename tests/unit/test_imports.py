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


# The rooms of the house


def rooms(package: str) -> list[list[str]]:
    """Return the modules of each row in ARCHITECTURE.md's table of a package, from the top."""
    text = (ROOT / "ARCHITECTURE.md").read_text()
    table = text.split(f"| {package} | what lives there |\n|---|---|\n")[1].split("\n\n")[0]
    return [row.split(" | ")[0].strip("| ").split(", ") for row in table.splitlines()]


@pytest.mark.parametrize(
    ("package", "place"),
    [("engine/livemig", ROOT / "engine/livemig"), ("plugin/docker_livemig", PLUGIN[0].parent)],
    ids=["engine", "plugin"],
)
def test_every_module_has_a_room(package: str, place: Path) -> None:
    there = {f"{each.name}/" if each.is_dir() else each.stem for each in place.iterdir()}
    named = [module for room in rooms(package) for module in room]
    assert sorted(named) == sorted(there - {"__init__", "__pycache__/", "py.typed"})


FLOOR = ("stub/", "tracing", "calls")
"""Rooms that call each other: the first module of each."""


@pytest.mark.parametrize("path", ENGINE, ids=name)
def test_a_room_calls_none_below(path: Path) -> None:
    heights: dict[str, int] = {}
    for number, room in enumerate(rooms("engine/livemig")):
        height = heights[FLOOR[0]] if room[0] in FLOOR[1:] else number
        heights |= {module.rstrip("/"): height for module in room}
        heights[room[0]] = height
    own = path.relative_to(ROOT / "engine/livemig").parts[0].removesuffix(".py")
    if own == "__init__":
        return
    for module in modules(parse(path)):
        assert heights[module] <= heights[own], f"{own} calls {module}"


def modules(tree: ast.AST) -> Iterator[str]:
    """Yield the modules and packages of the engine that are imported, by their own names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "livemig":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("livemig."):
            yield str(node.module).split(".")[1]
