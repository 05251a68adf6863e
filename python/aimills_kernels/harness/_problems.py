"""The arguments of a case, as far as a choice depends on them."""

from __future__ import annotations

from aimills_kernels._op import Case, Op

_SMALL = 1 << 28  # bytes, up to which inputs that look at values are made


def arguments(op: Op, case: Case) -> tuple:
    """Meta tensors, or where inputs look at values, small ones of a CPU."""
    try:
        return op.meta_inputs(case)
    except Exception:  # whatever fake tensors raise where a value is asked for
        if op.cost(case).bytes > _SMALL:
            raise
        return op.make_inputs(case, "cpu", 0)
