"""What two machines must have in common for a process to go on."""

from __future__ import annotations

import hashlib
import os

from docker_livemig.requests import Hello
from livemig.errors import InternalError, MachineMismatch
from livemig.system import procfs
from livemig.system.memory import Memory

# Flags of /proc/cpuinfo that say nothing about instructions a program may use.
_NOT_INSTRUCTIONS = {
    *("constant_tsc", "nonstop_tsc", "tsc_known_freq", "rep_good", "nopl", "hypervisor"),
    *("cpuid", "extd_apicid", "tsc_adjust", "arat", "topoext", "cmp_legacy", "cr8_legacy"),
    *("osvw", "vmmcall", "smep", "smap", "umip", "mce", "mca", "mtrr", "pat", "pge", "pse"),
    *("pse36", "apic", "x2apic", "tsc_deadline_timer", "invpcid", "vme", "de", "pae", "msr"),
    *("ibrs", "ibpb", "stibp", "ssbd", "aperfmperf", "pcid", "mwaitx", "wbnoinvd", "svm", "vmx"),
}


def check_machine(source: Hello, target: Hello) -> None:
    """Raise MachineMismatch, naming it, for what the target's machine lacks."""
    for name in ("arch", "page_size"):
        here, there = getattr(source, name), getattr(target, name)
        if here != there:
            raise MachineMismatch(f"{target.host}: {name} is {there}, {source.host} has {here}")
    missing = sorted(set(source.cpu_flags) - set(target.cpu_flags) - _NOT_INSTRUCTIONS)
    if missing:
        raise MachineMismatch(
            f"{target.host}: its CPU lacks {', '.join(missing)}, which {source.host} has",
            hint="a program that has seen these features may use them at any time",
        )


def vdso_digest() -> bytes:
    """Return a digest of the code that this machine's kernel maps into every process."""
    memory = Memory(os.getpid())
    try:
        for area in procfs.read_areas(os.getpid()):
            if area.name == "[vdso]":
                code = memory.read(area.start, area.end - area.start)
                return hashlib.blake2b(code, digest_size=16).digest()
    finally:
        memory.close()
    raise InternalError("this process has no vDSO")


def check_vdso(source: str, digest: bytes) -> None:
    """Raise MachineMismatch where this kernel's vDSO is another than the source's."""
    if digest != vdso_digest():
        raise MachineMismatch(
            f"the kernel of {os.uname().nodename} ({os.uname().release}) maps another vDSO than "
            f"that of {source}",
            hint="both hosts must run the same kernel in this version",
        )
