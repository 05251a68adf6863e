"""The ops, and their registration with torch.library.

`OPS` is the whole list. `register()` runs at the first use of an op: it defines each schema, the
CPU and CUDA kernels (both are the dispatcher), the fake kernel, autograd, and an `<op>_out` variant
for the ops with one output. `define/impl` and not `custom_op`: see `docs/adr/0003`.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache, lru_cache, partial
from typing import Any

import torch
from torch import Tensor
from torch._functorch.utils import (
    enable_single_level_autograd_function,
    unwrap_dead_wrappers,
)
from torch.autograd import forward_ad
from torch.autograd.function import _SingleLevelFunction

from aimills_kernels import _dispatch
from aimills_kernels._op import (
    Backward,
    Op,
    address_range,
    as_tuple,
    describe,
    overlaps_itself,
    tensors_of,
)
from aimills_kernels._words import shown
from aimills_kernels.kernels.attention.op import attention
from aimills_kernels.kernels.attention.op_append import kv_append
from aimills_kernels.kernels.attention.op_backward import attention_backward
from aimills_kernels.kernels.attention.op_merge import merge_attention_states
from aimills_kernels.kernels.attention.op_paged import attention_paged
from aimills_kernels.kernels.attention.op_varlen import attention_varlen
from aimills_kernels.kernels.attention.op_varlen_backward import attention_varlen_backward
from aimills_kernels.kernels.matmul.op_fp8 import matmul_fp8
from aimills_kernels.kernels.matmul.op_fp8_quantize import matmul_quantize_fp8
from aimills_kernels.kernels.matmul.op_fused import rmsnorm_quantize_fp8, swiglu_quantize_fp8
from aimills_kernels.kernels.matmul.op_grouped_fp8 import grouped_matmul_fp8
from aimills_kernels.kernels.matmul.op_grouped_fp8_quantize import grouped_matmul_quantize_fp8
from aimills_kernels.kernels.matmul.op_grouped_w4 import grouped_matmul_w4
from aimills_kernels.kernels.matmul.op_int8 import matmul_int8
from aimills_kernels.kernels.matmul.op_quantize import quantize_fp8
from aimills_kernels.kernels.matmul.op_quantize_int8 import quantize_int8
from aimills_kernels.kernels.matmul.op_w4 import matmul_w4
from aimills_kernels.kernels.matmul.op_w8 import matmul_w8
from aimills_kernels.kernels.video.op import video_to_tensor
from aimills_kernels.kernels.video.op_ragged import video_to_tensor_ragged

OPS: tuple[Op, ...] = (
    attention,
    attention_backward,
    attention_varlen,
    attention_varlen_backward,
    attention_paged,
    kv_append,
    merge_attention_states,
    matmul_fp8,
    matmul_int8,
    matmul_w8,
    matmul_w4,
    grouped_matmul_fp8,
    grouped_matmul_w4,
    quantize_fp8,
    quantize_int8,
    rmsnorm_quantize_fp8,
    swiglu_quantize_fp8,
    matmul_quantize_fp8,
    grouped_matmul_quantize_fp8,
    video_to_tensor,
    video_to_tensor_ragged,
)


def get_op(name: Any) -> Op:
    for op in OPS:
        if op.name == name:
            return op
    raise ValueError(f"unknown op {shown(name)}; the ops are: {', '.join(op.name for op in OPS)}")


def families() -> dict[str, tuple[Op, ...]]:
    """The ops of each folder under `kernels/`, by its name."""
    found: dict[str, tuple[Op, ...]] = {}
    for op in OPS:
        family = op.reference.__module__.rsplit(".", 2)[-2]
        found[family] = (*found.get(family, ()), op)
    return found


def ops_named(names: Iterable[Any]) -> tuple[Op, ...]:
    """The ops that these name, each once. A name is an op's or a family's, which stands for all of
    its ops. An op goes before a family of the same name, which a slash at the end means."""
    known = {f"{name}/": ops for name, ops in families().items()}
    known |= families() | {op.name: (op,) for op in OPS}
    found: dict[str, Op] = {}
    for name in names:
        if not isinstance(name, str) or name not in known:
            raise ValueError(
                f"unknown op {shown(name)}; the ops are: {', '.join(op.name for op in OPS)}; "
                f"the families of ops: {', '.join(f'{f}/' for f in families())}"
            )
        found |= {op.name: op for op in known[name]}
    return tuple(found.values())


@lru_cache(maxsize=1)
def register() -> torch.library.Library:
    """Define all ops under `torch.ops.aimills`. The library must stay alive, so it is kept here."""
    library = torch.library.Library("aimills", "FRAGMENT")
    for op in OPS:
        define(library, op)
    return library


@cache
def torch_op(name: str) -> Any:
    """The overload `torch.ops.aimills.<name>.default`, registered."""
    register()
    return getattr(torch.ops.aimills, name).default


def define(library: torch.library.Library, op: Op) -> None:
    """Register `op` and, where it has one output, `<op>_out`."""
    single = len(op.outputs) == 1

    def kernel(*args: Any) -> Any:
        outs = _dispatch.plan_for(op, args).run(args)
        if op.mutates:
            return None
        return outs[0] if single else outs

    qualified = f"{library.ns}::{op.name}"
    library.define(op.name + op.schema, tags=(torch.Tag.pt2_compliant_tag,))
    for key in ("CPU", "CUDA"):
        library.impl(op.name, kernel, key)

    def fake(*args: Any) -> Any:
        _dispatch.one_device(op, args)  # a meta tensor among others comes here, not to the kernel
        return op.fake(*args)

    torch.library.register_fake(qualified, fake, lib=library)
    overload = getattr(getattr(torch.ops, library.ns), op.name).default
    library.impl(op.name, _autograd_kernel(op, overload), "Autograd")
    _leave_autocast(library, op.name, overload)
    torch.library.register_vmap(qualified, _vmap_rule(op, overload), lib=library)
    if not op.mutates:
        _define_out(library, op)


def _define_out(library: torch.library.Library, op: Op) -> None:
    """`<op>_out(..., Tensor(a!) out) -> ()`: the first output goes into `out`.

    An op with scratch memory also takes its other outputs, and `workspace`.
    """
    name = f"{op.name}_out"
    inner, _, _ = op.schema.rpartition(") ->")
    extra = (*op.outputs[1:], "workspace") if op.workspace else ()
    more = "".join(f", Tensor({chr(98 + i)}!)? {n}=None" for i, n in enumerate(extra))
    library.define(
        f"{name}{inner}, *, Tensor(a!) out{more}) -> ()", tags=(torch.Tag.pt2_compliant_tag,)
    )

    def kernel(*args: Any, out: Tensor, workspace: Tensor | None = None, **others: Any) -> None:
        plan = _dispatch.plan_for(op, args)
        given = [out, *(others.get(n) for n in op.outputs[1:])]
        scratch = None
        if workspace is not None:
            check_workspace(op, workspace, plan.device, plan.workspace)
            for t in (*tensors_of(args), *tensors_of(given)):
                if _overlap(workspace, t):
                    raise ValueError(f"{op.name}: workspace must share no memory with a tensor")
            scratch = workspace[: plan.workspace].view(torch.float32)
        outs, copies = [], []
        for t, (shape, dtype), template, which in zip(
            given, plan.outs, plan.templates, op.outputs, strict=True
        ):
            if t is not None:
                label = "out" if t is out else which
                _check_out(op, torch.Size(shape), dtype, plan.device, t, label)
                if t.is_contiguous() and not any(_overlap(t, a) for a in tensors_of(args)):
                    outs.append(t)
                    continue
            outs.append(torch.empty_like(template))
            if t is not None:
                copies.append((t, outs[-1]))
        plan.run(args, tuple(outs), scratch)
        for t, made in copies:
            t.copy_(made)

    def fake(*args: Any, out: Tensor, workspace: Tensor | None = None, **others: Any) -> None:
        _dispatch.one_device(op, args)
        wanted = as_tuple(op.fake(*args))
        for t, want, label in zip(
            (out, *(others.get(n) for n in op.outputs[1:])), wanted, ("out", *op.outputs[1:]),
            strict=True,
        ):  # fmt: skip
            if t is not None:
                _check_out(op, want.shape, want.dtype, want.device, t, label)
        if workspace is not None:
            check_workspace(op, workspace, wanted[0].device, None)

    for key in ("CPU", "CUDA"):
        library.impl(name, kernel, key)
    torch.library.register_fake(f"{library.ns}::{name}", fake, lib=library)
    overload = getattr(getattr(torch.ops, library.ns), name).default

    def autograd(*args: Any, **into: Any) -> None:
        tensors = (*tensors_of(args), *tensors_of(into.values()))
        if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
            raise ValueError(f"{op.name}: out= can't be used where an argument requires a gradient")
        with torch._C._AutoDispatchBelowAutograd():
            overload(*args, **into)

    def refuse(*args: Any, **into: Any) -> None:
        raise ValueError(f"{op.name}: out= can't be used under torch.vmap")

    library.impl(name, autograd, "Autograd")
    library.impl(name, refuse, "FuncTorchBatched")
    _leave_autocast(library, name, overload)


def _leave_autocast(library: torch.library.Library, name: str, overload: Any) -> None:
    """Within torch.autocast the op runs as it does outside."""

    def kernel(*args: Any, **kwargs: Any) -> Any:
        with _dispatch.without_autocast():
            return overload(*args, **kwargs)

    for key in ("AutocastCPU", "AutocastCUDA"):
        library.impl(name, kernel, key)


def check_workspace(op: Op, workspace: Tensor, device: torch.device, needed: int | None) -> None:
    """`needed` bytes; None where the shapes are not known yet."""
    plain = workspace.dtype == torch.uint8 and workspace.dim() == 1 and workspace.is_contiguous()
    if not plain or workspace.device != device:
        size = "as many bytes as attention_workspace says" if needed is None else f"{needed} bytes"
        raise ValueError(
            f"{op.name}: workspace must be a contiguous uint8 tensor of {size} on {device}, "
            f"got {describe(workspace)} on {workspace.device}"
        )
    if needed is None:
        return
    if workspace.numel() < needed:
        raise ValueError(
            f"{op.name}: workspace must have at least {needed} bytes, got {workspace.numel()}"
        )
    if workspace.data_ptr() % 16:
        raise ValueError(f"{op.name}: workspace must start at a multiple of 16 bytes")


def _check_out(
    op: Op, shape: torch.Size, dtype: torch.dtype, device: torch.device, out: Tensor,
    name: str = "out",
) -> None:  # fmt: skip
    if overlaps_itself(out):
        raise ValueError(
            f"{op.name}: {name} must not overlap itself: each stride must pass the reach of all "
            f"smaller ones, got {tuple(out.stride())} for {tuple(out.shape)}"
        )
    if out.shape != shape or out.dtype != dtype or out.device != device:
        wanted = f"{str(dtype).removeprefix('torch.')}{list(shape)} on {device}"
        raise ValueError(f"{op.name}: {name} must be {wanted}, got {describe(out)} on {out.device}")


def _overlap(out: Tensor, other: Tensor) -> bool:
    """Whether the address ranges touch; then the result is made elsewhere and copied."""
    begin, end = address_range(out)
    other_begin, other_end = address_range(other)
    return begin < other_end and other_begin < end


def _vmap_rule(op: Op, overload: Any) -> Any:
    """One call for each element of the batch. torch's own fallback does the same, with a warning,
    and takes no list of tensors."""

    def rule(info: Any, in_dims: tuple, *args: Any) -> tuple[Any, Any]:
        if info.batch_size == 0:
            raise ValueError(f"{op.name}: torch.vmap over an empty dimension is not supported")
        if op.mutates:
            raise ValueError(
                f"{op.name}: can't be used under torch.vmap, as it writes to its arguments"
            )
        rows = [
            as_tuple(overload(*map(partial(_element, i), args, in_dims)))
            for i in range(info.batch_size)
        ]
        outs = tuple(map(torch.stack, zip(*rows, strict=True)))
        return (outs, (0,) * len(outs)) if len(outs) > 1 else (outs[0], 0)

    return rule


def _element(i: int, arg: Any, dim: Any) -> Any:
    """What element `i` of a batch has in place of an argument that has the batch in `dim`."""
    if isinstance(arg, (list, tuple)) and isinstance(dim, (list, tuple)):
        return [_element(i, a, d) for a, d in zip(arg, dim, strict=True)]
    return arg if dim is None else arg.select(dim, i)


def _autograd_kernel(op: Op, overload: Any) -> Any:
    """Below autograd where no gradient is asked for, else through an autograd.Function.

    A Function at the Autograd key and not `register_autograd`: only so does opcheck pass with
    inputs that require a gradient (`docs/adr/0003`).
    """
    function = None if op.backward is None else _function(op, overload)

    def kernel(*args: Any) -> Any:
        if op.mutates and torch.is_grad_enabled():
            _refuse_gradients(op, args)
        if function is not None:
            if forward_ad._current_level >= 0:
                _refuse_tangents(op, args)
            if torch.is_grad_enabled() and any(t.requires_grad for t in tensors_of(args)):
                with enable_single_level_autograd_function():
                    return function.apply(*args)
        with torch._C._AutoDispatchBelowAutograd():
            return overload(*args)

    return kernel


def _refuse_gradients(op: Op, args: tuple) -> None:
    """What is written to would keep the gradient of what it was."""
    for name, t in zip(op.mutates, op.written(args), strict=True):
        if t.requires_grad:
            raise ValueError(f"{op.name}: {name} is written to and must not require a gradient")


def _refuse_tangents(op: Op, args: tuple) -> None:
    """Below autograd a tangent would get lost without a word."""
    if any(forward_ad.unpack_dual(t).tangent is not None for t in tensors_of(args)):
        raise ValueError(
            f"{op.name}: has no forward-mode derivative (jvp, jacfwd); use grad, vjp or jacrev"
        )


def _function(op: Op, overload: Any) -> Any:
    """The autograd.Function of an op.

    The kernel at the Autograd key is called once for each functorch level, so this is the Function
    of a single level; `Function.apply` would enter all levels anew, and fail.
    """
    fused = op.backward if isinstance(op.backward, Backward) else None

    class Function(_SingleLevelFunction):
        @staticmethod
        def forward(ctx: Any, *args: Any) -> Any:
            ctx.scalars = [None if isinstance(a, Tensor) else a for a in args]
            ctx.set_materialize_grads(False)
            ctx.asked_for = _dispatch.asked_for()
            # A Function switches both off, and functorch's outer levels would take no derivative.
            with (
                torch._C._AutoDispatchBelowAutograd(),
                torch.enable_grad(),
                forward_ad._set_fwd_grad_enabled(True),
            ):
                given = args if fused is None else _saving(op, fused, args)
                found = overload(*given)
                outs = as_tuple(found)
                if given is not args:  # what was not asked for is saved, and not returned
                    wanted = as_tuple(op.fake(*args))
                    found = tuple(
                        o if o.shape == w.shape else w for o, w in zip(outs, wanted, strict=True)
                    )
            kept = outs if fused is not None else ()
            ctx.like = [(o.shape, o.dtype, o.device) for o in as_tuple(found)]
            ctx.save_for_backward(*[a if isinstance(a, Tensor) else None for a in args], *kept)
            return found

        @staticmethod
        def backward(ctx: Any, *grads: Tensor | None) -> tuple:
            saved = unwrap_dead_wrappers(ctx.saved_tensors)  # vjp's pullback outlives its level
            own, outs = saved[: len(ctx.scalars)], saved[len(ctx.scalars) :]
            args = [s if t is None else t for s, t in zip(ctx.scalars, own, strict=True)]
            needs = tuple(ctx.needs_input_grad)
            with _dispatch.without_autocast(), _dispatch.also_asked_for(ctx.asked_for):
                # A derivative of the gradient itself must see through what was saved.
                if fused is None or torch.is_grad_enabled():
                    whole = tuple(
                        torch.zeros(shape, dtype=dtype, device=device) if g is None else g
                        for g, (shape, dtype, device) in zip(grads, ctx.like, strict=True)
                    )
                    return _by_reference(op, args, whole, needs)
                given = fused.arguments(tuple(args), outs, grads, needs)
                results = as_tuple(torch_op(fused.op)(*given))
                return fused.gradients(tuple(args), results, needs)

    Function.__name__ = f"{op.name}_function"
    return Function


def _saving(op: Op, fused: Backward, args: tuple) -> tuple:
    """The arguments by which the forward gives what its backward wants, where a kernel takes them;
    else its own, as the reference is no way to save time."""
    given = fused.saving(args)
    return given if _dispatch.served_by_kernel(op, given) else args


def _by_reference(op: Op, args: list[Any], grads: tuple, needs: tuple[bool, ...]) -> tuple:
    """Gradients by differentiating the reference, which is run again for them."""
    wanted = [i for i, need in enumerate(needs) if need]

    def reference(*given: Tensor) -> tuple:
        for i, t in zip(wanted, given, strict=True):
            args[i] = t
        return as_tuple(op.reference(*args))

    _, pullback = torch.func.vjp(reference, *[args[i] for i in wanted])
    result: list[Tensor | None] = [None] * len(args)
    for i, g in zip(wanted, pullback(grads), strict=True):
        result[i] = g
    return tuple(result)
