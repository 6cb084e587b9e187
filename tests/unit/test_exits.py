"""Every error has an exit code of its own."""

from __future__ import annotations

from collections.abc import Iterator

from docker_livemig.exits import EXIT_CODES, exit_code, table
from livemig import errors
from livemig.errors import LivemigError


def tree(cls: type[LivemigError] = LivemigError) -> Iterator[type[LivemigError]]:
    yield cls
    for sub in cls.__subclasses__():
        if sub.__module__ == errors.__name__:
            yield from tree(sub)


def test_every_class_has_an_exit_code_of_its_own() -> None:
    assert set(tree()) == set(EXIT_CODES)
    assert len(set(EXIT_CODES.values())) == len(EXIT_CODES)


def test_numbers_mean_nothing_else() -> None:
    """0 is success; 64 to 78 are sysexits.h's, 125 on are Docker's, the shell's and signals'."""
    assert all(0 < number < 64 for cls, number in EXIT_CODES.items() if cls.code != "cancelled")
    assert exit_code(errors.Cancelled("x")) == 130
    assert exit_code(errors.UsageError("x")) == 2


def test_a_class_without_a_number_has_that_of_its_branch() -> None:
    class SubError(errors.NotCarried):
        """One that a later version adds."""

    assert exit_code(SubError("x")) == EXIT_CODES[errors.NotCarried]


def test_the_table_names_every_code() -> None:
    text = table()
    for cls, number in EXIT_CODES.items():
        if cls is not LivemigError:
            assert f"{number:>3}  {cls.code} " in text
