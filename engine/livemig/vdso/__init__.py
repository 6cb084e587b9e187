"""The vDSO: what this kernel maps, and copies of others' whose entries lead into it."""

from livemig.vdso.copies import HEAD, copy_size, lead
from livemig.vdso.image import MAX_IMAGE, entries
from livemig.vdso.own import Own, own
from livemig.vdso.stops import within

__all__ = [
    "HEAD",
    "MAX_IMAGE",
    "Own",
    "copy_size",
    "entries",
    "lead",
    "own",
    "within",
]
