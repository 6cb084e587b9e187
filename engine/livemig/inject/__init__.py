"""Inject: turn a held process into the one that arrives."""

from livemig.inject.choice import check_layout, lay_out_by
from livemig.inject.held import Held
from livemig.inject.process import rebuild

__all__ = ["Held", "check_layout", "lay_out_by", "rebuild"]
