"""Limits of the GPUs that tile sizes depend on."""

SHARED_KIB = {80: 163, 86: 99, 89: 99, 90: 227, 100: 227, 120: 99}


def shared_kib(sm: int) -> int:
    """Shared memory of one block, by the largest known capability that is not newer."""
    return SHARED_KIB[max((s for s in SHARED_KIB if s <= sm), default=80)]
