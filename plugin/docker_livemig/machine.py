"""What two machines must have in common for a process to go on."""

from __future__ import annotations

from docker_livemig.requests import Hello
from livemig import vdso
from livemig.errors import MachineMismatch

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


def has_foreign_vdso(image: bytes) -> bool:
    """Tell whether this kernel's vDSO is another than ``image``, the source's.

    Raises MachineMismatch, naming it, for a function that would be missing here, and ProtocolError
    where it is no vDSO.
    """
    own = vdso.own().code
    if image != own:
        vdso.lead(image, vdso.entries(own))
    return image != own
