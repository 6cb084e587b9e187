"""PROTOCOL.md says of every body what the code reads: each name, its type and its default."""

from __future__ import annotations

import enum
import re
import types
import typing
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

from docker_livemig import messages, requests
from livemig import model
from livemig.frames import FrameType
from livemig.pages import Batch
from livemig.rounds import LayoutUpdate, RoundEnd

TEXT = (Path(__file__).resolve().parents[2] / "PROTOCOL.md").read_text()
TABLE = re.compile(
    r"^(.+):\n\n\| name \| type \| what \|\n\|---\|---\|---\|\n((?:\|.*\n)+)", re.MULTILINE
)
ROW = re.compile(r"^\| ((?:`\w+`(?:, )?)+) \| (\w+)(?: = (\S+))? \| .* \|$")
SPECIFIED: dict[str, type] = {
    "HELLO": requests.Hello,
    "MOVE": requests.MoveRequest,
    "PROGRESS": requests.Progress,
    "SUMMARY": requests.MoveSummary,
    "A round": model.RoundStat,
    "PREPARE": messages.Prepare,
    "PREPARED": messages.Prepared,
    "IMAGE": messages.ImageLayers,
    "CREATED": messages.Created,
    "LAYOUT": LayoutUpdate,
    "The layout": model.Layout,
    "A mapping": model.Mapping,
    "A mapped file": model.MappedFile,
    "The residence": model.Residence,
    "The code of a vDSO": model.VdsoImage,
    "PAGES": Batch,
    "ROUND_END": RoundEnd,
    "STATE": messages.State,
    "A digest": messages.PageDigest,
    "READY": messages.Ready,
    "COMMIT": messages.Commit,
    "What was typed": model.Typed,
    "RUNNING": messages.Running,
    "FINISH": messages.Finish,
    "FINISHED": messages.Finished,
    "RESUME": messages.Resume,
    "STATUS": messages.Status,
    "QUERY": requests.Query,
    "REPORT": requests.Report,
    "A move": requests.MoveView,
    "RECOVER": requests.Recover,
    "RECOVERED": requests.Recovered,
    "An outcome": requests.Outcome,
    "SETTLE": messages.Settle,
}
NAMES: dict[type, str] = {str: "text", bytes: "bytes", bool: "bool", int: "int", float: "float"}


def tables() -> dict[str, dict[str, tuple[str, str | None]]]:
    """Return the type and the default of each name, by what stands before its table."""
    found: dict[str, dict[str, tuple[str, str | None]]] = {}
    for caption, rows in TABLE.findall(TEXT):
        assert caption not in found, f"{caption} is there twice"
        found[caption] = {}
        for row in rows.splitlines():
            match = ROW.match(row)
            assert match, f"{caption}: {row}"
            for name in re.findall(r"\w+", match[1]):
                found[caption][name] = match[2], match[3]
    return found


def type_of(hint: Any) -> str:
    """Return the protocol's word for a type."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return NAMES[type(arguments[0])]
    if origin in (types.UnionType, typing.Union):
        (hint,) = (each for each in arguments if each is not type(None))
        return type_of(hint)
    kind = origin or hint
    if issubclass(kind, enum.Enum):
        return NAMES[next(base for base in kind.__mro__ if base in NAMES)]
    if is_dataclass(kind) or kind is dict:
        return "map"
    return "list" if kind in (tuple, list) else NAMES[kind]


def default_of(field: Field[Any]) -> str | None:
    """Return the protocol's word for a default, None where there is none."""
    if field.default_factory is not MISSING:
        value = field.default_factory()
    elif field.default is MISSING:
        return None
    else:
        value = field.default
    if value is None:
        return "nil"
    if is_dataclass(value) or isinstance(value, dict):
        return "{}"
    if isinstance(value, (str, bytes)):
        return f'"{value.decode() if isinstance(value, bytes) else value}"'
    if isinstance(value, bool):
        return str(value).lower()
    return "[]" if isinstance(value, (tuple, list)) else f"{value:g}"


def test_the_specification_lists_every_type() -> None:
    rows = re.findall(r"^\| (\d+) \| ([A-Z_]+) \|", TEXT, re.MULTILINE)
    assert {name: int(value) for value, name in rows} == {t.name: t.value for t in FrameType}


def test_every_table_is_compared() -> None:
    assert set(tables()) == set(SPECIFIED)


@pytest.mark.parametrize("caption", SPECIFIED)
def test_the_specification_says_what_is_read(caption: str) -> None:
    cls = SPECIFIED[caption]
    hints = typing.get_type_hints(cls)
    expected = {
        field.name: (type_of(hints[field.name]), default_of(field)) for field in fields(cls)
    }
    assert tables()[caption] == expected
