"""The public matmul with 4-bit weights."""

from __future__ import annotations

from torch import Tensor

from aimills_kernels.ops._flags import check_bools
from aimills_kernels.ops._run import run
from aimills_kernels.ops.matmul import Activation
from aimills_kernels.packed import PackedWeight


def matmul_w4(
    x: Tensor,
    packed: PackedWeight,
    *,
    bias: Tensor | None = None,
    activation: Activation | None = None,
    residual: Tensor | None = None,
    batch_invariant: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    """Matmul with 4-bit weights: activation(x @ packed.dequantize().T + bias) + residual, rounded
    once.

    Shapes and dtypes:
        x       [..., K]   f16 | bf16
        packed  [N, K]     `PackedWeight`, on the device of x
        bias    [N]        f16 | bf16 | f32
        residual [..., N]  f16 | bf16 | f32
        out     [..., N]   dtype of x; with activation="swiglu" it is [..., N / 2], as is residual

    Any lengths, empty ones too, and any strides of x and bias.

    Args:
        bias: added in float32, before the activation.
        activation, residual: as in matmul_fp8.
        batch_invariant: the bits of a row then do not depend on the other rows or their number.
            No path on a CPU promises that.
        out: written and returned in place of a new tensor.

    Returns:
        out. A NaN in x makes its row NaN.

    Raises:
        ValueError: a shape, dtype, device, activation or a kind of `packed` that does not fit, or
            no path promises batch_invariant here; the message names the argument.

    Codes less their zero point are integers and exact in the dtype of x; each group's sum is scaled
    in float32, so no weight is ever rounded. Group-wise 4-bit weights: Frantar et al., GPTQ,
    arXiv:2210.17323; Lin et al., AWQ, arXiv:2306.00978. Gradients of x, bias, residual and scales
    are those of the PyTorch reference, which is run again for them; codes have none. torch.autocast
    changes nothing.
    """
    if type(batch_invariant) is not bool:
        check_bools("matmul_w4", batch_invariant=batch_invariant)
    if not isinstance(packed, PackedWeight):
        raise ValueError(f"matmul_w4: packed must be a PackedWeight, got {type(packed).__name__}")
    if not isinstance(x, Tensor):
        raise ValueError(f"matmul_w4: x must be a tensor, got {type(x).__name__}")
    N, K = packed.shape
    if x.dim() == 0 or x.shape[-1] != K:
        raise ValueError(f"matmul_w4: x must be [..., {K}], as wide as packed, got {[*x.shape]}")
    if activation == "swiglu":
        N //= 2
    rows = x if x.dim() == 2 else x.reshape(x.shape[:-1].numel(), K)
    if residual is not None and x.dim() != 2:
        residual = _rows_of(residual, (*x.shape[:-1], N))
    into = out
    if out is not None and x.dim() != 2:
        if not isinstance(out, Tensor) or tuple(out.shape) != (*x.shape[:-1], N):
            found = [*out.shape] if isinstance(out, Tensor) else type(out).__name__
            raise ValueError(f"matmul_w4: out must be {[*x.shape[:-1], N]}, got {found}")
        into = _as_rows(out, rows.shape[0], N)
    args = (
        rows, packed.codes, packed.scales, packed.zeros, packed.perm, packed.group_of, bias,
        residual, packed.group_size, packed.offset, "none" if activation is None else activation,
        batch_invariant,
    )  # fmt: skip
    made = run("matmul_w4", args, into)
    if out is not None:
        return out
    return made if x.dim() == 2 else made.reshape(*x.shape[:-1], N)


def _rows_of(residual: Tensor, shape: tuple[int, ...]) -> Tensor:
    if not isinstance(residual, Tensor) or tuple(residual.shape) != shape:
        found = [*residual.shape] if isinstance(residual, Tensor) else type(residual).__name__
        raise ValueError(f"matmul_w4: residual must be {[*shape]}, as out, got {found}")
    return residual.reshape(residual.shape[:-1].numel(), shape[-1])


def _as_rows(out: Tensor, rows: int, N: int) -> Tensor:
    try:
        return out.view(rows, N)
    except RuntimeError:
        raise ValueError(
            f"matmul_w4: out must be such that it can be seen as [{rows}, {N}], got strides "
            f"{out.stride()}"
        ) from None
