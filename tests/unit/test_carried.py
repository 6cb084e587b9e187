"""README's table of what is carried and what is refused is the code's own list."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from docker_livemig import carried
from docker_livemig.carried import RARE, TABLE, Refusal

REPO = Path(__file__).parents[2]
HEADING = "## What is carried, and what is refused\n"
LISTED = ("uncarried", "keptby", "ownfiles", "altered")
PASSED_ON = (" cannot be carried", "while it was ")
"""Parts of errors that pass on what else is listed, or tell what Docker did meanwhile."""
REFUSALS = {refusal.name: refusal for row in TABLE for refusal in row.refused}


def table() -> list[str]:
    """Return the rows of the table in README, its head left out."""
    section = (REPO / "README.md").read_text().split(HEADING)[1].split("\n## ")[0]
    return [line for line in section.splitlines() if line.startswith("|")][2:]


def said() -> set[str]:
    """Return all text in the code, but for the list's own and for documentation."""
    found = set()
    for path in (*REPO.glob("engine/**/*.py"), *REPO.glob("plugin/**/*.py")):
        if path == Path(carried.__file__):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                node.value.value = ""  # a docstring
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return found


SAID = said()


def test_the_readme_says_what_the_code_says() -> None:
    assert table() == [row.line() for row in TABLE]


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS)
def test_a_refusal_is_said_by_the_code(refusal: Refusal) -> None:
    assert any(refusal.says in text for text in SAID), f"no error says {refusal.says!r}"


def refusals() -> Iterator[tuple[str, list[str]]]:
    """Yield where the code refuses something, and the fixed parts of what it says of it."""
    for path in (*REPO.glob("engine/**/*.py"), *REPO.glob("plugin/**/*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            words: ast.AST | None = None
            if isinstance(node, ast.Yield) and path.stem in LISTED:
                words = node.value
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "NotCarried":
                words = node.args[0]
            found = [] if words is None else constants(words)
            if (
                found
                and found != ["process "]
                and not any(p in part for p in PASSED_ON for part in found)
            ):
                yield f"{path.name}:{node.lineno}", found  # type: ignore[attr-defined]


def constants(words: ast.AST) -> list[str]:
    """Return the fixed parts of a text that are longer than what stands between two of others."""
    nodes = [each for each in ast.walk(words) if isinstance(each, ast.Constant)]
    return [each.value for each in nodes if isinstance(each.value, str) and len(each.value) > 4]


@pytest.mark.parametrize(("where", "says"), tuple(refusals()))
def test_a_refusal_of_the_code_is_listed(where: str, says: list[str]) -> None:
    known = [*RARE, *(refusal.says for refusal in REFUSALS.values())]
    assert any(part in text for part in known for text in says), f"{where}: {says}"


def test_no_row_and_no_name_comes_twice() -> None:
    assert len({row.carried for row in TABLE}) == len(TABLE)
    assert len(REFUSALS) == sum(len(row.refused) for row in TABLE)
