"""Inject: turn a held process into the one that arrives."""

from livemig.inject.held import Held
from livemig.inject.layout import StubLayout
from livemig.inject.process import rebuild

__all__ = ["Held", "StubLayout", "rebuild"]
