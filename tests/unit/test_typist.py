"""The typist's books where a connection is lost with a number in it, which may come late."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import pytest

from tests.attachment import Attachment, ClosedError
from tests.recorder import Model
from tests.typist import Typist, TypistError


class Recorder:
    """Answers as the recorder does; a connection that is `lost` keeps what is typed for later."""

    def __init__(self) -> None:
        self._model = Model()
        self._said: deque[str] = deque()
        self.late: list[str] = []
        self.lost = False

    def send(self, line: str) -> None:
        if self.lost:
            self.late.append(line)
        elif line == "0":
            self._said.append(f"{self._model.report()} heap=intact")
        elif line.isdigit():
            self._said.append(self._model.record(int(line)))
        else:
            self._said.append(f"error: not a number: {line}")

    def line(self, _: float) -> str:
        if self.lost:
            raise ClosedError
        return self._said.popleft()

    def arrive(self) -> None:
        """Have what was kept come after all."""
        for line in self.late:
            self.send(line)


class Typing(Typist):
    """A typist without a thread, whose connection is never lost for long."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__([])
        self._recorder = recorder
        self._attachment = cast("Attachment", recorder)

    def _attach(self, deadline: float) -> None:  # noqa: ARG002
        self._recorder.lost = False

    def type(self, *numbers: int) -> None:
        for number in numbers:
            self._type(number)

    def report(self) -> str:
        report = self._ask(1.0)
        assert report == f"{self._model.report()} heap=intact"
        return report


@contextmanager
def typing(recorder: Recorder) -> Iterator[Typing]:
    typist = Typing(recorder)
    yield typist
    typist._attachment = None
    typist.stop(check=False)


def test_a_number_that_had_to_be_typed_again_may_come_late() -> None:
    recorder = Recorder()
    with typing(recorder) as typist:
        typist.type(1, 2)
        recorder.lost = True
        typist.type(3, 4)
        assert recorder.late == ["3"]
        recorder.arrive()
        typist.type(5)
        assert "last=1,2,3,4,3,5 " in typist.report()
        assert typist.acked == [1, 2, 3, 4, 5]
        recorder.arrive()
        with pytest.raises(TypistError):  # a third time: it was typed twice
            typist.type(6)


def test_a_number_may_come_late_while_the_recorder_is_asked() -> None:
    recorder = Recorder()
    with typing(recorder) as typist:
        recorder.lost = True
        typist.type(1)
        recorder.arrive()
        assert "last=1,1 " in typist.report()


def test_a_number_that_was_typed_once_comes_once() -> None:
    recorder = Recorder()
    with typing(recorder) as typist:
        typist.type(1)
        recorder.send("1")
        with pytest.raises(TypistError):
            typist.type(2)
