"""What can be told of an instruction before anybody binds it: that it has its number of operands,
no words that nobody knows, and a target that has it.

A handler that takes its opcode apart itself stands here with its operands only.
"""

from __future__ import annotations

import functools
import re
from typing import Any

from tests.ptx import flow, ops, words
from tests.ptx.errors import Malformed, Unknown
from tests.ptx.parse import Instr, Kernel, Mem, Reg

# First words of the opcode: the least and the most operands, an .L2::cache_hint's policy not
# counted. The longest match counts; what is not here is counted by its handler.
_OPERANDS = {
    "mov": (2, 2), "ld": (2, 2), "ldu": (2, 2), "st": (2, 2), "cvta": (2, 2), "isspacep": (2, 2),
    "cvt": (2, 4), "cvt.pack": (3, 4), "setp": (3, 4), "set": (3, 4), "mapa": (3, 3),
    "getctarank": (2, 2), "atom": (3, 4), "red": (2, 2), "createpolicy": (1, 4),
    "prefetch": (1, 1), "prefetchu": (1, 1), "discard": (2, 2), "applypriority": (2, 2),
    "nanosleep": (1, 1), "pmevent": (1, 1), "trap": (0, 0), "exit": (0, 0), "ret": (0, 0),
    "bra": (1, 1), "brx": (2, 2), "setmaxnreg": (1, 1), "griddepcontrol": (0, 0),
    "bar.warp": (1, 1), "bar": (1, 2), "barrier": (1, 2), "bar.arrive": (2, 2),
    "bar.cta.arrive": (2, 2),
    "barrier.arrive": (2, 2), "barrier.cta.arrive": (2, 2), "bar.red": (3, 4),
    "bar.cta.red": (3, 4), "barrier.red": (3, 4), "barrier.cta.red": (3, 4),
    "barrier.cluster": (0, 0), "membar": (0, 0), "fence": (0, 0),
    "fence.proxy.tensormap::generic.acquire": (2, 2),
    "mbarrier.init": (2, 2), "mbarrier.inval": (1, 1), "mbarrier.expect_tx": (2, 2),
    "mbarrier.complete_tx": (2, 2), "mbarrier.arrive": (2, 3), "mbarrier.arrive_drop": (2, 3),
    "mbarrier.arrive.expect_tx": (3, 3), "mbarrier.arrive_drop.expect_tx": (3, 3),
    "mbarrier.arrive.noComplete": (3, 3), "mbarrier.arrive_drop.noComplete": (3, 3),
    "mbarrier.test_wait": (3, 3), "mbarrier.try_wait": (3, 4), "mbarrier.pending_count": (2, 2),
    "cp.async.ca": (3, 4), "cp.async.cg": (3, 4), "cp.async.commit_group": (0, 0),
    "cp.async.wait_group": (1, 1), "cp.async.wait_all": (0, 0),
    "cp.async.mbarrier.arrive": (1, 1), "cp.async.bulk.shared::cluster": (4, 5),
    "cp.async.bulk.shared::cta": (4, 4), "cp.async.bulk.global": (3, 3),
    "cp.async.bulk.prefetch.L2": (2, 2), "cp.async.bulk.prefetch.tensor": (1, 1),
    "cp.async.bulk.tensor": (2, 4), "cp.async.bulk.commit_group": (0, 0),
    "cp.async.bulk.wait_group": (1, 1), "cp.reduce.async.bulk.tensor": (2, 2),
    "cp.reduce.async.bulk.global": (3, 3), "cp.reduce.async.bulk.shared::cluster": (4, 4),
    "st.async": (3, 3), "red.async": (3, 3), "tensormap.replace": (2, 3),
    "tensormap.cp_fenceproxy": (3, 3), "ldmatrix": (2, 2), "stmatrix": (2, 2), "mma": (4, 4),
    "wgmma.fence": (0, 0), "wgmma.commit_group": (0, 0), "wgmma.wait_group": (1, 1),
    "wgmma.mma_async": (4, 8),
}  # fmt: skip

_EVICT = "L2::evict_(?:last|normal|first|unchanged)"
_SECOND = "L2::evict_(?:first|unchanged)"
_SPACE = r"\.(?:global|shared|shared::cta|shared::cluster|local|const|param)"
_SCOPE = r"\.(?:cta|cluster|gpu|sys)"
# First words: the whole opcode, where its handler does not look at the others.
_OPCODES = {
    "prefetch": rf"prefetch(?:(?:\.global|\.local)?\.L[12]|\.global\.{_EVICT}"
                r"|(?:\.const|\.param)?\.tensormap)",
    "prefetchu": r"prefetchu\.L1", "discard": r"discard(?:\.global)?\.L2",
    "applypriority": r"applypriority(?:\.global)?\.L2::evict_normal",
    "nanosleep": r"nanosleep\.u32", "pmevent": r"pmevent(?:\.mask)?", "trap": "trap",
    "membar": r"membar\.(?:cta|gl|sys)",
    "fence": rf"fence(?:\.(?:sc|acq_rel|acquire|release))?{_SCOPE}"
             r"|fence\.(?:proxy|mbarrier_init|(?:acquire|release)\.sync_restrict).*",
    "exit": "exit", "ret": r"ret(?:\.uni)?", "bra": r"bra(?:\.uni)?", "brx": r"brx\.idx(?:\.uni)?",
    "cvta": rf"cvta(?:\.to)?{_SPACE}\.u64", "isspacep": rf"isspacep{_SPACE}",
    "createpolicy": rf"createpolicy\.(?:fractional\.{_EVICT}(?:\.{_SECOND})?"
                    rf"|range(?:\.global)?\.{_EVICT}(?:\.{_SECOND})?|cvt\.L2)\.b64",
    "cp.async.commit_group": r"cp\.async\.commit_group",
    "cp.async.wait_group": r"cp\.async\.wait_group", "cp.async.wait_all": r"cp\.async\.wait_all",
    "setmaxnreg": r"setmaxnreg\.(?:inc|dec)\.sync\.aligned\.u32",
    "griddepcontrol": r"griddepcontrol\.(?:wait|launch_dependents)",
    "wgmma.mma_async": r"wgmma\.mma_async\.sync\.aligned\..*",
    "wgmma.fence": r"wgmma\.fence\.sync\.aligned",
    "wgmma.commit_group": r"wgmma\.commit_group\.sync\.aligned",
    "wgmma.wait_group": r"wgmma\.wait_group\.sync\.aligned",
}  # fmt: skip

_WIDE = ("b64", "u64", "s64")
_INTEGERS = ("atom", "red", "st", "redux")  # which take no register of a float as one of .u or .s

# The first target that has an instruction, where it is not older than this executor's interest.
_NEEDS = {
    "wgmma": "sm_90a", "setmaxnreg": "sm_90a",
    **dict.fromkeys(
        ("barrier.cluster", "mapa", "getctarank", "fence.mbarrier_init", "fence.proxy", "stmatrix",
         "elect", "griddepcontrol", "tensormap", "st.async", "red.async", "cp.async.bulk",
         "cp.reduce", "mbarrier.try_wait", "mbarrier.expect_tx", "mbarrier.complete_tx",
         "mbarrier.arrive.expect_tx"), "sm_90",
    ),
    **dict.fromkeys(("mbarrier", "cp.async", "createpolicy", "redux", "discard"), "sm_80"),
    **dict.fromkeys(("mma", "ldmatrix"), "sm_75"),
}  # fmt: skip


@functools.lru_cache(flow.KERNELS)
def check(kernel: Kernel) -> None:
    for instr in kernel.code:
        if instr.parts[0] == "call":
            raise Unknown("calls are not supported", instr)
        ops.find(instr)
        _words(instr)
        _count(instr)
        _registers(instr)
        needed = _longest(_NEEDS, instr)
        if needed is not None and _age(kernel.target) < _age(needed):
            raise Malformed(f"the module is for {kernel.target}, and this needs {needed}", instr)


def _longest(table: dict[str, Any], instr: Instr) -> Any:
    """The entry of the table with the most of the opcode's first words."""
    for n in range(len(instr.parts), 0, -1):
        found = table.get(".".join(instr.parts[:n]))
        if found is not None:
            return found
    return None


def _count(instr: Instr) -> None:
    found = _longest(_OPERANDS, instr)
    if found is None:
        return
    least, most = found
    given = len(instr.args) - instr.has("L2::cache_hint")
    if not least <= given <= most:
        wanted = str(least) if least == most else f"{least} to {most}"
        raise Malformed(f"it takes {wanted} operands, not {given}", instr)


def _registers(instr: Instr) -> None:
    """Those that a handler does not hold against a type: it looks at their bits, or not at all."""
    for operand in instr.args:
        if isinstance(operand, Mem) and isinstance(operand.base, Reg):
            _fits(instr, operand.base, ("b32", "u32", "s32", *_WIDE), "an address")
    if instr.has("L2::cache_hint") and isinstance(instr.args[-1], Reg):
        _fits(instr, instr.args[-1], _WIDE, "a policy")
    if instr.parts[0] in _INTEGERS and instr.types and instr.types[-1][0] in "us":
        for reg in instr.args:  # of a vector, the assembler doesn't ask
            if isinstance(reg, Reg) and reg.type[0] == "f":
                _fits(instr, reg, (), f"a {instr.types[-1]}")


def _fits(instr: Instr, reg: Reg, types: tuple[str, ...], what: str) -> None:
    if reg.type not in types:
        raise Unknown(f"register {reg.name} is a {reg.type}, and {what} goes here", instr)


def _words(instr: Instr) -> None:
    pattern = _longest(_OPCODES, instr)
    if pattern is not None and re.fullmatch(pattern, instr.op) is None:
        raise Unknown("this executor does not know the instruction", instr)
    if (wrong := words.wrong(instr)) is not None:
        raise Unknown(wrong, instr)


def _age(target: str) -> tuple[int, bool]:
    """sm_90a has what sm_90 has, and more."""
    return int(target.removeprefix("sm_").rstrip("a")), target.endswith("a")
