"""Extract: read everything that a process is made of, its pages apart."""

from livemig.extract.files import read_descriptors
from livemig.extract.mappings import mapped_files, read_layout, refuse_mappings
from livemig.extract.process import extract_process, refuse_process

__all__ = [
    "extract_process",
    "mapped_files",
    "read_descriptors",
    "read_layout",
    "refuse_mappings",
    "refuse_process",
]
