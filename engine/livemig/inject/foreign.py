"""What the held process gets in place of the source's vDSO, where this kernel's is another one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from livemig import vdso
from livemig.errors import ProtocolError, StateMismatch
from livemig.inject.held import Held
from livemig.layout import LOWEST, Change, LayoutBackend, free_hole
from livemig.model import Kind, Mapping, VdsoImage
from livemig.stub.runner import SIZE
from livemig.system.memory import USER_END
from livemig.system.procfs import PROT_EXEC, PROT_READ


class ForeignVdso:
    """Keeps the entries of other kernels' vDSOs callable at their addresses.

    ``follow`` turns the source's layout into the one that the process has here while it is held,
    ``complete`` adds this kernel's own vDSO, once nothing moves any more, and leads into it.
    """

    def __init__(self) -> None:
        self._own = vdso.own()
        self._there = vdso.entries(self._own.code)
        self._images: dict[int, bytes] = {}

    def follow(self, wanted: Sequence[Mapping], new: Sequence[VdsoImage]) -> tuple[Mapping, ...]:
        """Return the mappings that ``wanted``, the source's, become here.

        The source's own vDSO stays one where it is ours. Else it becomes a copy, and ordinary
        memory its data; but where there is a copy already, nobody knows the addresses of the
        kernel's own, and it is left out. MachineMismatch where an entry would lead nowhere,
        ProtocolError where the code of one is missing, or broken.
        """
        images = self._images | {each.start: each.code for each in new}
        self._images = {
            each.start: _image(each, images) for each in wanted if each.kind.has_entries
        }
        if sum(each.kind is Kind.VDSO for each in wanted) > 1:
            raise ProtocolError("the layout has two vDSOs")
        for each in wanted:
            if each.kind is Kind.FOREIGN or self._differs(each):
                vdso.lead(self._images[each.start], self._there)
        if not any(map(self._differs, wanted)):
            return tuple(wanted)
        if any(each.kind is Kind.FOREIGN for each in wanted):
            return tuple(each for each in wanted if each.kind not in _INSTEAD)
        return tuple(replace(each, kind=_INSTEAD.get(each.kind, each.kind)) for each in wanted)

    def _differs(self, mapping: Mapping) -> bool:
        return mapping.kind is Kind.VDSO and self._images[mapping.start] != self._own.code

    def complete(
        self, held: Held, layout: LayoutBackend, mappings: Sequence[Mapping]
    ) -> tuple[Mapping, ...]:
        """Write the copies among ``mappings``, which the process has, and map what they lead to.

        Returns its mappings then. Raises OSError, naming the step.
        """
        if not (copies := [each for each in mappings if each.kind is Kind.FOREIGN]):
            return tuple(mappings)
        found = list(mappings)
        if not any(each.kind is Kind.VDSO for each in mappings):
            ours = self._place(mappings, held.stub.base)
            layout.apply(Change((), ours, ()))
            found = sorted([*mappings, *ours], key=lambda each: each.start)
        for address, code in self._led(found, copies):
            held.memory.write(address, code)
        return tuple(found)

    def verify(self, held: Held, mappings: Sequence[Mapping]) -> None:
        """Raise StateMismatch where a copy is not what ``complete`` wrote."""
        copies = [each for each in mappings if each.kind is Kind.FOREIGN]
        for address, code in self._led(mappings, copies):
            if held.memory.read(address, len(code)) != code:
                raise StateMismatch(f"process {held.pid}: the vDSO's copy at {address:#x} differs")

    def _led(
        self, mappings: Sequence[Mapping], copies: Sequence[Mapping]
    ) -> Iterator[tuple[int, bytes]]:
        for each in copies:
            (own,) = (other for other in mappings if other.kind is Kind.VDSO)
            there = {name: own.start + offset for name, offset in self._there.items()}
            yield each.start, vdso.lead(self._images[each.start], there)

    def _place(self, mappings: Sequence[Mapping], stub: int) -> tuple[Mapping, Mapping]:
        """Return where this kernel's own vDSO goes: above the stack, where nothing else is put.

        mmap(2) gives addresses below it, as long as there are any (arch/x86/mm/mmap.c).
        """
        taken = [*((each.start, each.end) for each in mappings), (stub, stub + SIZE)]
        size = self._own.before + len(self._own.code)
        above = max((each.end for each in mappings if each.kind is Kind.STACK), default=LOWEST)
        holes = (free_hole(taken, size, lowest) for lowest in (above, LOWEST))
        for start in holes:
            middle, end = start + self._own.before, start + size
            if end <= USER_END:
                return (
                    Mapping(start, middle, PROT_READ, Kind.VVAR),
                    Mapping(middle, end, PROT_READ | PROT_EXEC, Kind.VDSO),
                )
        raise ProtocolError("the layout leaves no room for this kernel's vDSO")


_INSTEAD = {Kind.VDSO: Kind.FOREIGN, Kind.VVAR: Kind.ANONYMOUS}


def _image(mapping: Mapping, images: dict[int, bytes]) -> bytes:
    code = images.get(mapping.start, b"")
    if len(code) != mapping.length or len(code) > vdso.MAX_IMAGE:
        raise ProtocolError(f"the code of the vDSO at {mapping.start:#x} did not come, or not all")
    return code
