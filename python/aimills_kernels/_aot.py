"""Compile what a Triton provider would launch, for GPUs that are not here.

`compiling_for(sm)` puts a driver in Triton's place that only names its target, and turns every
launch into a compile. So nothing about a kernel's signature, constants or tiles is stated again:
`launch` is called on meta tensors and says it all. What is compiled lands in Triton's cache, under
the key that a launch on such a GPU asks for: sources, signature, alignment, options, target.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterator
from typing import Any

from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from aimills_kernels import _dispatch
from aimills_kernels._op import Op, Problem, Provider, as_tuple


class Target:
    """Just enough of a Triton driver to compile. `device` keys what a process keeps of kernels, so
    that no architecture sees another's; an own one sees none but what is on disk."""

    def __init__(self, sm: int, device: Hashable = None):
        self.sm, self.device = sm, device or sm

    def get_current_device(self) -> Hashable:
        return self.device

    def get_current_stream(self, device: Hashable) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.sm, 32)


@contextlib.contextmanager
def compiling_for(sm: int, seen: Callable[[Any], None], device: Hashable = None) -> Iterator[None]:
    """Within the block a launch compiles for `sm` and hands the kernel to `seen`."""
    launch = JITFunction.run

    def compile_only(self: JITFunction, *args: Any, grid: Any, warmup: bool, **kw: Any) -> Any:
        kernel = launch(self, *args, grid=grid, warmup=True, **kw)
        seen(kernel)
        return kernel

    before = driver._active
    JITFunction.run = compile_only
    driver.set_active(Target(sm, device))
    try:
        with _dispatch.assume_sm(sm):
            yield
    finally:
        JITFunction.run = launch
        driver._active = before


def compile_provider(
    op: Op,
    args: tuple,
    provider: Provider,
    sm: int,
    seen: Callable[[Any], None],
    device: Hashable = None,
) -> str | None:
    """Hand every kernel that `provider` launches for meta `args` on `sm` to `seen`; why it takes
    none, where it rejects them."""
    with compiling_for(sm, seen, device):
        if reason := _dispatch.why_not(provider, Problem(op, args, "cuda", sm)):
            return reason
        _dispatch.load(provider)(as_tuple(op.fake(*args)), *args)
    return None
