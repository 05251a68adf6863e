"""Matrix products and attention in Triton and Gluon, whose compilers are known to be right on a
Hopper GPU, run on the executor and held against float64."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import pytest
import torch
import triton
from torch import Tensor
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from tests.ptx import errors, launch, producers
from tests.ptx.measured import note
from tests.ptx.triton import executing

pytestmark = pytest.mark.ptx

BF16, F16, F32, E4M3 = torch.bfloat16, torch.float16, torch.float32, torch.float8_e4m3fn
ROUNDING = {BF16: 2.0**-8, F16: 2.0**-11, F32: 2.0**-24}
TF32_TRUNCATION = 2.0**-10
M, N, K = 100, 136, 144  # no multiple of any tile
PER_NAT = 1 / math.log(2)


@pytest.fixture(autouse=True)
def _scratch() -> None:
    triton.set_allocator(lambda size, align, stream: torch.empty(size, dtype=torch.int8))


def drawn(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def ran(results: Sequence[launch.Result], *opcodes: str) -> None:
    """These instructions were executed."""
    (result,) = results
    done = {i.op for i, n in zip(result.kernel.code, result.executed, strict=True) if n}
    missing = [o for o in opcodes if not any(op.startswith(o) for op in done)]
    assert not missing


def product_is_right(c: Tensor, a: Tensor, b: Tensor) -> None:
    """c = a b.T, to what products, f32 sums and the rounding of the result may lose."""
    want = a.double() @ b.double().T
    size = a.double().abs() @ b.double().abs().T
    each = a.shape[1] * 2.0**-23 + (2 * TF32_TRUNCATION if a.dtype == F32 else 0)
    note(c, want, size)
    excess = (c.double() - want).abs() - ROUNDING[c.dtype] * want.abs() - each * size
    assert excess.max() <= 0, "wrong values"


POINTERS = [
    # type, result, b's rows contiguous, tile, warps, stages, and what has to run
    (BF16, BF16, True, (64, 64, 64), 4, 1, ("wgmma.mma_async", "ld.global")),
    (BF16, F32, False, (64, 64, 64), 4, 3, ("wgmma.mma_async", "cp.async.cg")),
    (F16, F16, True, (128, 64, 32), 8, 4, ("wgmma.mma_async", "cp.async.cg")),
    (F32, F32, False, (64, 64, 32), 4, 2, ("wgmma.mma_async", "cp.async.cg")),
    (E4M3, BF16, False, (64, 128, 64), 4, 3, ("wgmma.mma_async", "cp.async.cg")),
    (BF16, BF16, True, (16, 32, 16), 1, 2, ("mma.sync", "ldmatrix", "cp.async.cg")),
]


def word(value: object) -> str:
    """Part of a case's name, which has a row in the README."""
    if isinstance(value, tuple):
        return "x".join(map(str, value)) if isinstance(value[0], int) else value[0].split(".")[0]
    return str(value).removeprefix("torch.")


@pytest.mark.parametrize(
    ("dtype", "to", "rows", "tile", "warps", "stages", "uses"), POINTERS, ids=word
)
def test_triton_matmul_by_pointers(dtype, to, rows, tile, warps, stages, uses, seed):
    a, b = drawn(M, K, dtype=dtype), drawn(N, K, dtype=dtype, seed=1)
    right = b.T.contiguous() if rows else b.T
    c = torch.full((M, N), torch.nan, dtype=to)
    grid = (triton.cdiv(M, tile[0]), triton.cdiv(N, tile[1]))
    with executing(seed=seed) as results:
        producers.by_pointers[grid](
            a, right, c, M, N, K, *right.stride(), *tile, num_warps=warps, num_stages=stages
        )
    ran(results, *uses)
    product_is_right(c, a, b)


TMA = ("wgmma.mma_async", "tensormap.replace", "cp.async.bulk.tensor.2d.shared::cluster",
       "cp.async.bulk.tensor.2d.global", "mbarrier.try_wait")  # fmt: skip
DESCRIPTORS = [
    (BF16, (64, 128, 64), 4, 3),
    (F16, (128, 256, 64), 8, 2),
    (F32, (64, 64, 32), 4, 4),
    (E4M3, (128, 128, 128), 8, 3),
    (BF16, (128, 64, 32), 4, 1),
]


@pytest.mark.parametrize(("dtype", "tile", "warps", "stages"), DESCRIPTORS, ids=word)
def test_triton_matmul_by_descriptors(dtype, tile, warps, stages, seed):
    """Three CTAs for more tiles, so that the pipeline's barriers go on from tile to tile."""
    a, b = drawn(M, K, dtype=dtype), drawn(N, K, dtype=dtype, seed=1)
    c = torch.full((M, N), torch.nan, dtype=F32 if dtype == F32 else BF16)
    with executing(seed=seed) as results:
        producers.by_descriptors[(3,)](a, b, c, M, N, K, *tile, num_warps=warps, num_stages=stages)
    ran(results, *TMA)
    product_is_right(c, a, b)


def without_unused_barriers(text: str) -> str:
    """Triton initialises mbarriers that it then does not use, several of them at one place."""
    base = re.search(r"mov\.b32\s+(%r\d+), global_smem;", text)[1]  # type: ignore[index]
    unused = [base, *re.findall(rf"add\.s32\s+(%r\d+), {base}, (?:8|16);", text)]
    return re.sub(rf"\S+ mbarrier\.init\S+ \[(?:{'|'.join(unused)})\], 1;", "", text)


def divided(stages: int, **options) -> None:
    a, b = drawn(M, K, dtype=BF16), drawn(N, K, dtype=BF16, seed=1)
    c = torch.full((M, N), torch.nan, dtype=BF16)
    with executing(**options) as results:
        producers.specialised[(1, 2)](
            a, b, c, M, N, K, 128, 128, 64, num_warps=4, num_stages=stages
        )
    ran(results, *TMA, "setmaxnreg", "mbarrier.arrive")
    product_is_right(c, a, b)


def test_triton_has_several_ctas_for_a_program(seed):
    a, b = drawn(M, K, dtype=BF16), drawn(N, K, dtype=BF16, seed=1)
    c = torch.full((M, N), torch.nan, dtype=BF16)
    with executing(seed=seed) as results:
        producers.by_pointers[(2, 3)](
            a, b, c, M, N, K, 1, K, 64, 64, 64, num_warps=4, num_stages=2, num_ctas=2
        )
    assert results[0].kernel.cluster == (2, 1, 1)
    product_is_right(c, a, b)


@pytest.mark.parametrize("stages", [2, 3])
def test_triton_divides_a_matmul_among_warpgroups(stages, seed):
    divided(stages, seed=seed, edit=without_unused_barriers)


def test_barriers_that_triton_does_not_use(seed):
    with pytest.raises(errors.Fault, match="the mbarrier at 0 is initialised, and it still lives"):
        divided(2, seed=seed)


def attention_is_right(o: Tensor, q: Tensor, k: Tensor, v: Tensor, causal: bool = False) -> None:
    """The shares and the result are rounded to o's type; all else is f32."""
    scores = q.double() @ k.double().mT * q.shape[-1] ** -0.5
    if causal:
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        scores = scores.masked_fill(hidden, -torch.inf)
    shares = scores.softmax(-1)
    want, size = shares @ v.double(), shares @ v.double().abs()
    note(o, want, size)
    excess = (o.double() - want).abs() - (ROUNDING[o.dtype] + 1e-5) * (want.abs() + size)
    assert excess.max() <= 0, "wrong values"


ATTENTION = [
    # type, heads, tokens, D, tile, causal, warps, stages
    (BF16, 2, 200, 64, (64, 64), False, 4, 2),
    (F16, 1, 200, 64, (128, 64), True, 8, 2),
    (BF16, 1, 100, 128, (64, 32), False, 4, 3),
]


@pytest.mark.parametrize(
    ("dtype", "heads", "tokens", "d", "tile", "causal", "warps", "stages"), ATTENTION, ids=word
)
def test_triton_attention(dtype, heads, tokens, d, tile, causal, warps, stages, seed):
    attended(producers.attention, dtype, heads, tokens, d, tile, causal, warps, stages, seed, TMA)


BY_POINTERS = [
    (BF16, 2, 40, 64, (64, 32), False, 4, 3, ("wgmma.mma_async", "cp.async.cg")),
    (F16, 1, 100, 64, (64, 64), True, 4, 1, ("wgmma.mma_async", "ld.global")),
    (BF16, 1, 50, 32, (16, 16), True, 1, 2, ("mma.sync", "ldmatrix", "cp.async.cg")),
]


@pytest.mark.parametrize(
    ("dtype", "heads", "tokens", "d", "tile", "causal", "warps", "stages", "uses"),
    BY_POINTERS,
    ids=word,
)
def test_triton_attention_by_pointers(
    dtype, heads, tokens, d, tile, causal, warps, stages, uses, seed
):
    kernel = producers.attention_by_pointers
    attended(kernel, dtype, heads, tokens, d, tile, causal, warps, stages, seed, uses)


def attended(kernel, dtype, heads, tokens, d, tile, causal, warps, stages, seed, uses) -> None:
    q, k, v = (drawn(heads, tokens, d, dtype=dtype, seed=i) for i in range(3))
    o = torch.full_like(q, torch.nan)
    with executing(seed=seed) as results:
        kernel[(triton.cdiv(tokens, tile[0]), heads)](
            q, k, v, o, tokens, d**-0.5 * PER_NAT, d, *tile, causal,
            num_warps=warps, num_stages=stages,
        )  # fmt: skip
    ran(results, *uses, "ex2.approx")
    attention_is_right(o, q, k, v, causal)


def three_warpgroups(o: Tensor, q: Tensor, k: Tensor, v: Tensor, block: int, **options) -> list:
    def descriptor(x: Tensor, rows: int) -> TensorDescriptor:
        shape = [rows, x.shape[1]]
        return TensorDescriptor.from_tensor(
            x, shape, gl.NVMMASharedLayout.get_default_for(shape, gl.bfloat16)
        )

    maps = [descriptor(q, 64), descriptor(k, block), descriptor(v, block), descriptor(o, 64)]
    with executing(**options) as results:
        producers.attention_of_three_warpgroups[(triton.cdiv(len(q), 128),)](
            *maps, len(k) // block, q.shape[1] ** -0.5 * PER_NAT, 2, num_warps=4
        )
    return results


@pytest.mark.parametrize(
    ("queries", "keys", "d", "block"), [(128, 512, 128, 128), (200, 96, 64, 32)]
)
def test_gluon_attention_of_three_warpgroups(queries, keys, d, block, seed):
    """The first of them is the tile that has to run in 20 s."""
    q, k, v = (drawn(n, d, dtype=BF16, seed=i) for i, n in enumerate((queries, keys, keys)))
    o = torch.full_like(q, torch.nan)
    results = three_warpgroups(o, q, k, v, block, seed=seed)
    ran(results, "brx.idx", "setmaxnreg", "wgmma.mma_async", "mbarrier.arrive", "ex2.approx")
    attention_is_right(o, q, k, v)


@pytest.mark.parametrize("grid", [(0,), (2, 0), (1, 1, 0)])
def test_a_triton_launch_of_an_empty_grid_runs_nothing(grid):
    c = torch.full((16, 32), 7, dtype=F32)
    a, b = drawn(16, 32, dtype=BF16), drawn(32, 32, dtype=BF16, seed=1)
    with executing() as done:
        producers.by_pointers[grid](a, b, c, 16, 32, 32, 32, 1, 16, 32, 16, num_warps=1)
    assert done == []
    assert (c == 7).all()
