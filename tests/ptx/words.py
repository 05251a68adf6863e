"""The words that an opcode may have behind its first ones, for the handlers that look for some of
them only. Compilers write them in several orders, so a word is known by its slot: a slot holds one
of its words at most, and a slot that begins with ! holds one."""

from __future__ import annotations

import functools

from tests.ptx.parse import WIDTH, Instr

_TYPES = {
    "$any": [t for t in WIDTH if t not in ("pred", "b128")],
    "$data": [f"{kind}{bits}" for bits in (8, 16, 32, 64) for kind in "bus"] + ["f32", "f64"],
    "$wide": [f"{kind}{bits}" for bits in (32, 64) for kind in "busf"],
    "$space": ["global", "shared", "shared::cta", "shared::cluster", "local", "param", "const"],
    "$into": ["global", "shared", "shared::cta", "shared::cluster", "local", "param"],
    "$own": ["shared", "shared::cta"], "$shared": ["shared", "shared::cta", "shared::cluster"],
    "$scope": ["cta", "cluster", "gpu", "sys"], "$dim": [f"{n}d" for n in range(1, 6)],
    "$l1": [f"L1::{e}" for e in ("evict_normal", "evict_unchanged", "evict_first", "evict_last",
                                 "no_allocate")],
    "$fetch": ["L2::64B", "L2::128B", "L2::256B"], "$hint": ["L2::cache_hint"],
    "$bytes": ["mbarrier::complete_tx::bytes"], "$cast": ["multicast::cluster"],
    "$merge": ["add", "min", "max", "inc", "dec", "and", "or", "xor"],
    "$field": ["global_address", "global_dim", "global_stride", "box_dim", "element_stride", "rank",
               "elemtype", "interleave_layout", "swizzle_mode", "fill_mode"],
}  # fmt: skip
_ANY = ("!$any", "!$data", "!$wide")
_BULK = "$bytes $cast $hint"
_SLOTS = {
    "ld": "weak|relaxed|acquire|volatile|mmio $scope $space nc ca|cg|cs|lu|cv $l1 $fetch $hint "
          "v2|v4 !$data",
    "ldu": "!global v2|v4 !$data",
    "st": "weak|relaxed|release|volatile|mmio $scope $into wb|cg|cs|wt $l1 $hint v2|v4 !$data",
    "atom": "relaxed|acquire|release|acq_rel $scope global|$shared noftz v2|v4|v8 $hint "
            "!$merge|exch|cas !$any",
    "red": "relaxed|release $scope global|$shared noftz v2|v4|v8 $hint !$merge !$any",
    "bar.warp": "!sync", "bar": "cta !sync|arrive", "barrier": "cta !sync|arrive aligned",
    "bar.red": "!popc|and|or !u32|pred", "bar.cta.red": "!popc|and|or !u32|pred",
    "barrier.red": "aligned !popc|and|or !u32|pred",
    "barrier.cta.red": "aligned !popc|and|or !u32|pred",
    "barrier.cluster.arrive": "release|relaxed aligned", "barrier.cluster.wait": "acquire aligned",
    "mbarrier.init": "$own !b64", "mbarrier.inval": "$own !b64",
    "mbarrier.arrive": "expect_tx|noComplete release|relaxed cta|cluster $shared !b64",
    "mbarrier.arrive_drop": "expect_tx|noComplete release|relaxed cta|cluster $shared !b64",
    "mbarrier.expect_tx": "relaxed cta|cluster $shared !b64",
    "mbarrier.complete_tx": "relaxed cta|cluster $shared !b64",
    "mbarrier.test_wait": "parity acquire|relaxed cta|cluster $own !b64",
    "mbarrier.try_wait": "parity acquire|relaxed cta|cluster $own !b64",
    "mbarrier.pending_count": "!b64",
    "cp.async.ca": "!$own !global $hint $fetch", "cp.async.cg": "!$own !global $hint $fetch",
    "cp.async.mbarrier.arrive": "noinc $own !b64",
    "cp.async.bulk.commit_group": "", "cp.async.bulk.wait_group": "read",
    "cp.async.bulk.shared::cluster": f"!global|shared::cta {_BULK}",
    "cp.async.bulk.shared::cta": "!global $bytes $hint",
    "cp.async.bulk.global": "!shared::cta !bulk_group $hint",
    "cp.async.bulk.prefetch.L2": "!global $hint",
    "cp.async.bulk.prefetch.tensor": "!$dim !L2 !global tile $hint",
    "cp.async.bulk.tensor": f"!$dim shared::cluster shared::cta !global tile bulk_group {_BULK}",
    "cp.reduce.async.bulk.global": "!shared::cta !bulk_group $hint noftz !$merge !$any",
    "cp.reduce.async.bulk.shared::cluster": "!shared::cta !$bytes !$merge !$any",
    "cp.reduce.async.bulk.tensor": "!$dim !global !shared::cta !$merge tile !bulk_group $hint",
    "st.async": "weak !shared::cluster !$bytes v2|v4 !$wide",
    "red.async": "!relaxed !cluster !shared::cluster !$bytes !$merge !$any",
    "tensormap.replace.tile": "!$field global|shared::cta !b1024 !b32|b64",
    "tensormap.cp_fenceproxy": "!global !shared::cta !tensormap::generic !release !$scope !sync "
                               "!aligned",
    "fence.proxy.alias": "", "fence.acquire.sync_restrict::shared::cluster": "!cluster",
    "fence.release.sync_restrict::shared::cta": "!cluster",
    "fence.proxy.tensormap::generic": "!acquire|release !$scope",
    "ldmatrix": "!sync !aligned !m8n8 !x1|x2|x4 trans !$own !b16",
    "stmatrix": "!sync !aligned !m8n8 !x1|x2|x4 trans !$own !b16",
    "mapa": "shared::cluster !u32|u64", "getctarank": "shared::cluster !u32|u64",
}  # fmt: skip
_ORDER = "acquire|release|relaxed"
_HALVES = ("f16", "bf16", "f16x2", "bf16x2")
# Words that go with one of these only.
_WITH = {
    ("ld", "$scope"): "relaxed|acquire|mmio", ("st", "$scope"): "relaxed|release|mmio",
    ("ld", "nc"): "global", ("ld", "relaxed|acquire|mmio"): "$scope",
    ("st", "relaxed|release|mmio"): "$scope",
    ("atom", "noftz"): "f16|bf16|f16x2|bf16x2", ("red", "noftz"): "f16|bf16|f16x2|bf16x2",
    ("cp.async.bulk.tensor", "bulk_group"): "shared::cta",
    ("cp.async.bulk.tensor", "shared::cluster"): "$bytes",
    **{(f"mbarrier.{op}", some): needed
       for op in ("arrive", "arrive_drop", "expect_tx", "complete_tx", "test_wait", "try_wait")
       for some, needed in (("cta|cluster", _ORDER), (_ORDER, "cta|cluster"))},
}  # fmt: skip


@functools.cache
def _alternatives(text: str) -> frozenset[str]:
    return frozenset(w for part in text.split("|") for w in _TYPES.get(part, [part]))


def wrong(instr: Instr) -> str | None:
    """The word, or the lack of one, that no such instruction has; None where all is well or its
    handler looks at every word itself."""
    n = next((n for n in range(len(instr.parts), 0, -1) if _first(instr, n) in _SLOTS), 0)
    if not n:
        return None
    first = _first(instr, n)
    left = list(instr.parts[n:])
    for slot in _SLOTS[first].split():
        words = _alternatives(slot.removeprefix("!"))
        taken = next((w for w in left if w in words), None)
        if taken is not None:
            left.remove(taken)
        elif slot[0] == "!":
            some = ", ".join("." + w for w in sorted(words))
            return f"{first} without {'a type' if slot in _ANY else 'one of ' + some}"
    if left:
        return f"this executor does not know .{left[0]} here"
    for (of, some), needed in _WITH.items():
        has = _alternatives(some) & set(instr.parts[n:])
        if of == first and has and not _alternatives(needed) & set(instr.parts):
            return f".{min(has)} without one of {', '.join(sorted(_alternatives(needed)))}"
    return _together(instr)


def _together(instr: Instr) -> str | None:
    """Words that are right each for itself, and that no instruction has both."""
    first, types = instr.parts[0], instr.types
    vector = next((n for n in (2, 4, 8) if instr.has(f"v{n}")), 1)
    merge = next((m for m in ("min", "max") if instr.has(m)), None)
    if first in ("ld", "ldu", "st") and vector * WIDTH[types[-1]] > 16:
        return f"a vector of {vector} .{types[-1]} has more than 16 bytes"
    if first in ("ld", "st") and any(w.startswith("L1::") for w in instr.parts):
        space = _alternatives("$space") & set(instr.parts) - {"global"}
        if space:
            return f"words for the L1 cache with .{min(space)}"
    if first in ("atom", "red") and merge and types[-1] in _HALVES and vector == 1:
        return f"a {merge} of .{types[-1]} goes with a vector only"
    if instr.op.startswith("cp.reduce.async.bulk.global") and merge and instr.has("noftz"):
        return f"a {merge} has no .noftz here"
    if instr.has("multicast::cluster") and not instr.has("shared::cluster"):
        return ".multicast::cluster without .shared::cluster"
    if instr.op.startswith("tensormap.replace"):
        wide = instr.has("global_address") or instr.has("global_stride")
        if wide != instr.has("b64"):
            return f"tensormap.replace of .{instr.parts[3]} is of .{'b64' if wide else 'b32'}"
    return None


def _first(instr: Instr, n: int) -> str:
    return ".".join(instr.parts[:n])
