"""Groups of rows, each by a weight of its own: what the declarations can't say of themselves."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

import aimills_kernels as ak
from aimills_kernels import _aot, _dispatch, _tuned
from aimills_kernels._explain import explain_flat
from aimills_kernels._op import Case, Problem
from aimills_kernels._registry import get_op
from aimills_kernels.kernels.hardware import SHARED_KIB
from aimills_kernels.kernels.matmul.config import (
    INVARIANT_M,
    Shape,
    select_grouped_config,
    select_split_config,
)
from tests.ptx.triton import executing

OP = get_op("grouped_matmul_fp8")
E4M3 = torch.float8_e4m3fn
DIMS: dict[str, Any] = dict(N=24, K=48, scale_a="row", scale_b="row")


def _operands(rows: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Four weights."""
    generator = torch.Generator().manual_seed(seed)
    x, w = (torch.randn(*s, generator=generator) for s in ((rows, 40), (4 * 6, 40)))
    a, scale_a = ak.quantize_fp8(x, "row")
    b, scale_b = ak.quantize_fp8(w, "row")
    return a, b.view(4, 6, 40), scale_a, scale_b.view(4, 6, 1)


@pytest.mark.parametrize("counts", [(3, 0, 4, 2), (0, 0, 9, 0), (9, 0, 0, 0), (0, 0, 0, 0)])
@pytest.mark.parametrize("lead", [False, True])
def test_a_group_is_a_matmul_of_its_own(counts: tuple[int, ...], lead: bool, seed: int) -> None:
    a, b, scale_a, scale_b = _operands(11, seed)
    ends = [0, *itertools.accumulate(counts)]
    offsets = torch.tensor(ends if lead else ends[1:], dtype=torch.int32)
    out = torch.full((11, 6), torch.nan)
    ak.grouped_matmul_fp8(a, b, scale_a, scale_b, offsets=offsets, out_dtype=torch.float32, out=out)
    for e, (begin, end) in enumerate(itertools.pairwise(ends)):
        want = (a[begin:end].double() * scale_a[begin:end]) @ (b[e].double() * scale_b[e]).T
        torch.testing.assert_close(out[begin:end], want.float())
    assert (out[ends[-1] :] == 0).all()


def test_masked_is_contiguous_with_gaps(seed: int) -> None:
    a, b, scale_a, scale_b = _operands(12, seed)
    counts = torch.tensor([2, 0, 3, 1], dtype=torch.int32)
    own = torch.arange(3) < counts[:, None]
    bias = torch.randn(4, 6)
    got = ak.grouped_matmul_fp8(
        a.view(4, 3, 40), b, scale_a.view(4, 3, 1), scale_b, masked_m=counts, bias=bias
    )
    flat = own.flatten()
    want = ak.grouped_matmul_fp8(
        a.view(torch.uint8)[flat].view(E4M3), b, scale_a[flat], scale_b,
        offsets=counts.cumsum(0).int(), bias=bias,
    )  # fmt: skip
    assert torch.equal(got[own], want)
    assert (got[~own] == 0).all()


def test_gradients_see_nothing_of_rows_in_no_group(seed: int) -> None:
    case = Case("grad", counts=(2, 3), tail=2, **DIMS)
    named = dict(zip(OP.params, OP.make_inputs(case, "cpu", seed), strict=True))
    assert named["scale_a"].isnan().any()
    for name in ("scale_a", "scale_b"):
        named[name].requires_grad_()
    ak.grouped_matmul_fp8(
        *(named[n] for n in ("a", "b", "scale_a", "scale_b")), offsets=named["offsets"]
    ).float().sum().backward()
    assert named["scale_b"].grad.isfinite().all()
    assert (named["scale_a"].grad[5:] == 0).all()
    assert (named["scale_a"].grad[:5] != 0).all()


@pytest.mark.parametrize("masked", [False, True])
def test_two_matmuls_of_experts_meet_in_fp8(masked: bool, seed: int) -> None:
    """Codes and scales as they come out of the first go into the second; a row of no group is 0."""
    generator = torch.Generator().manual_seed(seed)
    lead = (3, 4) if masked else (12,)
    x, up, down = (
        torch.randn(*s, generator=generator) for s in ((*lead, 40), (3 * 300, 40), (3 * 6, 150))
    )
    (a, scale_a), (b, scale_b), (c, scale_c) = (ak.quantize_fp8(t, "row") for t in (x, up, down))
    counts = torch.tensor([4, 0, 3], dtype=torch.int32)
    given = {"masked_m": counts} if masked else {"offsets": counts.cumsum(0).int()}
    h, scale = ak.grouped_matmul_quantize_fp8(
        a, b.view(3, 300, 40), scale_a, scale_b.view(3, 300, 1), **given, activation="swiglu"
    )
    assert scale.shape == (*lead, 2)
    got = ak.grouped_matmul_fp8(
        h, c.view(3, 6, 150), scale, scale_c.view(3, 6, 1), **given, out_dtype=torch.float32
    )
    own = torch.arange(4) < counts[:, None] if masked else torch.arange(12) < 7
    group = torch.arange(3)[:, None].expand(3, 4) if masked else torch.tensor([0] * 4 + [2] * 8)
    each = scale.double().repeat_interleave(128, -1)[..., :150]
    for at in own.nonzero().tolist():
        e, row = int(group[tuple(at)]), tuple(at)
        weight = b.view(3, 300, 40)[e].double() * scale_b.view(3, 300, 1)[e]
        gate, more = ((a[row].double() * scale_a[row]) @ weight.T).chunk(2)
        wide, codes = torch.nn.functional.silu(gate) * more, h[row].double() * each[row]
        # Half a step of three bits of mantissa, and half the least step, 2^-9.
        half = wide.abs() * 2**-4 + each[row] * 2**-10
        assert ((codes - wide).abs() <= 1.001 * half).all()
        want = codes @ (c.view(3, 6, 150)[e].double() * scale_c.view(3, 6, 1)[e]).T
        assert (got[row] - want).norm() <= 1e-5 * want.norm()
    assert (got[~own] == 0).all()
    assert (h.view(torch.uint8)[~own] == 0).all()
    assert (scale[~own] == 1).all()


def _on_executor(named: dict[str, Any], seed: int) -> tuple[Tensor, tuple]:
    args = OP.flat(named)
    out = torch.full_like(OP.fake(*args), torch.nan)
    with executing(90, seed=seed) as done:
        _dispatch.load(OP.provider("triton"))((out,), *args)
    (result,) = done
    return out, result


UNCHECKED = {
    "falling": dict(offsets=[20, 4, 12]),
    "beyond": dict(offsets=[5, 400, 2**31 - 1]),
    "negative": dict(offsets=[-7, -(2**31), 9]),
    "zigzag": dict(offsets=[30, 0, 30]),
    "counts": dict(masked_m=[-5, 2**31 - 1, -(2**31)]),
}


@pytest.mark.ptx
@pytest.mark.parametrize("name", UNCHECKED)
def test_unchecked_lengths_stay_within_memory(name: str, seed: int) -> None:
    """The executor ends at any access beside a tensor; every row is written, and none is NaN."""
    masked = "masked_m" in UNCHECKED[name]
    case = Case("unchecked", counts=(10,) * 3, masked=masked, M=10, **DIMS)
    named = dict(zip(OP.params, OP.make_inputs(case, "cpu", seed), strict=True))
    for key, lengths in UNCHECKED[name].items():
        named[key] = torch.tensor(lengths, dtype=torch.int32)
    out, _ = _on_executor(named, seed)
    want = OP.reference(*OP.flat(named))
    # Which weight met which row is asked here: two roundings to bf16, and sums that cancel.
    torch.testing.assert_close(out, want, rtol=2**-7, atol=1e-2 * float(want.abs().max()))
    assert out.isfinite().all()


@pytest.mark.ptx
@pytest.mark.full
@pytest.mark.parametrize("counts", [(20, 0, 4), (0, 0, 0)])
def test_rows_of_no_group_cost_their_zeros(counts: tuple[int, ...], seed: int) -> None:
    """Every element of out is written once and no more; of a group without rows nothing is read but
    its length and scale, and of others the weight once for each tile of rows and a tile of a."""
    case = Case("masked", counts=counts, masked=True, M=30, N=64, K=128)
    args = OP.make_inputs(case, "cpu", seed)
    out = torch.full_like(OP.fake(*args), torch.nan)
    with executing(90, seed=seed, count=True) as done:
        _dispatch.load(OP.provider("triton"))((out,), *args)
    (result,) = done
    assert result.counters.stored["global"] == out.nbytes
    active, threads = sum(n > 0 for n in counts), 128
    operands = active * (case.N * case.K + 64 * case.K)
    beside = result.counters.loaded["global"] - operands
    columns, rows = 16, 4  # of a tile in one thread, which reads a scale for each
    assert 0 < beside <= 4 * threads * len(counts) * (1 + columns + rows)
    lengths = dict(zip(OP.params, args, strict=True))["masked_m"]  # the groups' order is drawn
    assert all((out[e, n:] == 0).all() for e, n in enumerate(lengths.tolist()))


@pytest.mark.parametrize("sm", SHARED_KIB)
def test_a_group_sums_as_deep_as_matmul_fp8(sm: int) -> None:
    """With batch_invariant=True: what is scaled or promoted before it is added is as much of K."""
    for n, k, decode, aligned, blocks, several in itertools.product(
        (24, 62, 4096), (90, 300, 4096), (True, False), (True, False), (True, False), (0, 1, 2)
    ):
        shape = Shape(INVARIANT_M, n, k, decode, aligned, fixed=True, several=several)
        alone = select_split_config(shape, blocks, sm)
        assert select_grouped_config(shape, blocks, sm).block_k == alone.block_k, shape
        assert alone.splits == 1


@pytest.mark.ptx
@pytest.mark.full
@pytest.mark.parametrize("scales", [("row", "row"), ("1x128", "128x128")])
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_a_row_has_the_bits_of_matmul_fp8(scales: tuple[str, str], dtype: str, seed: int) -> None:
    """With batch_invariant=True, whatever its group and place. The executor sums the products of an
    instruction exactly: this is about tiles and order, not about a GPU's matrix instructions."""
    case = Case("bits", counts=(3, 0, 40), N=24, K=300, scale_a=scales[0], scale_b=scales[1],
                out=dtype, fill="magnitudes", invariant=True)  # fmt: skip
    named = dict(zip(OP.params, OP.make_inputs(case, "cpu", seed), strict=True))
    out, _ = _on_executor(named, seed)
    ends = named["offsets"].tolist()
    plain = get_op("matmul_fp8")
    kind = "triton" if scales[0] == "row" else "triton_block"
    for e in (e for e in range(3) if ends[e] > (ends[e - 1] if e else 0)):
        row = ends[e] - 1
        args = (named["a"][row : row + 1], named["b"][e], named["scale_a"][row : row + 1],
                named["scale_b"][e], None, out.dtype, "promoted", True, None, "none")  # fmt: skip
        alone = torch.full_like(out[:1], torch.nan)
        with executing(90, seed=seed):
            _dispatch.load(plain.provider(kind))((alone,), *args)
        assert torch.equal(out[row], alone[0])


@pytest.mark.parametrize("name", ["grouped_matmul_fp8", "grouped_matmul_w4"])
@pytest.mark.parametrize("case", ["tiny", "masked"])
def test_a_launch_reads_no_length(name: str, case: str) -> None:
    """So one CUDA graph serves all of them: meta tensors have none to read."""
    op, seen = get_op(name), list[Any]()
    args = op.make_inputs(op.case(case), "meta", 0)
    with _aot.compiling_for(90, seen.append):
        _dispatch.load(op.provider("triton"))((op.fake(*args),), *args)
    assert len(seen) == 1


def _weights(seed: int, K: int = 96) -> list[ak.PackedWeight]:
    generator = torch.Generator().manual_seed(seed)
    made = (torch.randn(6, K, generator=generator) for _ in range(4))
    return [ak.PackedWeight.pack(w, "w4-g32-asym") for w in made]


def test_an_expert_of_a_stack_is_its_weight(seed: int) -> None:
    weights = _weights(seed)
    packed = ak.PackedExperts.stack(weights)
    assert packed.shape == (4, 6, 96)
    assert len(packed.to("cpu")) == 4
    x, bias = torch.randn(9, 96, dtype=torch.bfloat16), torch.randn(4, 6)
    ends = [2, 2, 7, 8]
    out = torch.full((9, 6), torch.nan, dtype=torch.bfloat16)
    offsets = torch.tensor(ends, dtype=torch.int32)
    ak.grouped_matmul_w4(x, packed, offsets=offsets, bias=bias, activation="silu", out=out)
    for e, (begin, end) in enumerate(itertools.pairwise([0, *ends])):
        assert packed[e].codes.data_ptr() == packed.codes[e].data_ptr()
        assert torch.equal(packed[e].dequantize(), weights[e].dequantize())
        want = ak.matmul_w4(x[begin:end], packed[e], bias=bias[e], activation="silu")
        torch.testing.assert_close(out[begin:end], want)
    assert (out[8:] == 0).all()


@pytest.mark.parametrize("name", ["matmul_fp8", "grouped_matmul_fp8", "grouped_matmul_w4"])
def test_batch_invariant_is_named_where_no_path_has_it(name: str) -> None:
    op = get_op(name)
    args = dict(zip(op.params, op.make_inputs(op.case("tiny"), "cpu", 0), strict=True))
    with pytest.raises(ValueError, match=rf"{name}: .*which batch_invariant=True excludes"):
        getattr(torch.ops.aimills, name)(**{**args, "batch_invariant": True})


def test_what_makes_no_stack_is_named(seed: int) -> None:
    weights, other = _weights(seed), _weights(seed, 64)
    with pytest.raises(
        ValueError, match=r"weights\[4\] .* in_features of weights\[0\], \d+, got \d+"
    ):
        ak.PackedExperts.stack([*weights, other[0]])
    with pytest.raises(ValueError, match=r"weights\[1\] .* codes .*\] on cpu, got int16\[5, "):
        ak.PackedExperts.stack([weights[0], weights[1].shard(0, 0, 5)])
    for nothing in ([], [torch.ones(2)], weights[0]):
        with pytest.raises(ValueError, match="must be a list of PackedWeights, at least one"):
            ak.PackedExperts.stack(nothing)
    with pytest.raises(IndexError, match="there are 4 experts, got 4"):
        ak.PackedExperts.stack(weights)[4]
    x, offsets = torch.zeros(2, 96, dtype=torch.bfloat16), torch.tensor([2] * 4, dtype=torch.int32)
    with pytest.raises(ValueError, match="packed must be PackedExperts, got PackedWeight"):
        ak.grouped_matmul_w4(x, weights[0], offsets=offsets)
    with pytest.raises(ValueError, match="x must have 96 columns as packed"):
        ak.grouped_matmul_w4(x[:, :8], ak.PackedExperts.stack(weights), offsets=offsets)


# ---- PyTorch's grouped matmul, which runs on a GPU alone


def _stand_in(
    a: Tensor, b: Tensor, scale_a: Tensor, scale_b: Tensor, *, offs: Tensor,
    out_dtype: torch.dtype, use_fast_accum: bool,
) -> Tensor:  # fmt: skip
    """It refuses what PyTorch 2.11 and 2.13 refuse, and leaves garbage in rows of no group."""
    (T, K), (E, _, N) = a.shape, b.shape
    assert (a.dtype, b.dtype, offs.dtype) == (E4M3, E4M3, torch.int32)
    assert (a.stride(1), b.stride(1), out_dtype, use_fast_accum) == (1, 1, torch.bfloat16, False)
    assert not any(n % 16 for n in (K, N, a.stride(0), b.stride(2), a.data_ptr(), b.data_ptr()))
    assert scale_a.shape == (T,)
    assert scale_b.shape == (E, N)
    assert scale_a.is_contiguous()
    assert scale_b.stride(1) == 1
    assert offs.shape == (E,)
    assert offs.is_contiguous()
    out, begin = torch.full((T, N), torch.nan, dtype=out_dtype), 0
    for e, end in enumerate(offs.tolist()):
        rows = slice(begin, end)
        sums = (a[rows].float() * scale_a[rows, None]) @ (b[e].float() * scale_b[e])
        out[rows], begin = sums.to(out_dtype), end
    return out


PYTORCHS = OP.provider("scaled_grouped_mm")


def _aligned(**changes: Any) -> Problem:
    named = dict(zip(OP.params, OP.make_inputs(OP.case("aligned"), "cpu", 0), strict=True))
    return Problem(OP, OP.flat({**named, **changes}), "cuda", 90)


def test_pytorchs_grouped_matmul_is_called_as_it_wants_to_be(monkeypatch: Any, seed: int) -> None:
    monkeypatch.setattr(torch, "_scaled_grouped_mm", _stand_in, raising=True)
    taken = 0
    for case in OP.cases:
        args = OP.make_inputs(case.on("cpu"), "cpu", seed)
        if PYTORCHS.rejects(Problem(OP, args, "cuda", 90)):
            continue
        outs = tuple(torch.full_like(o, torch.nan) for o in OP.results(args))
        _dispatch.raw_launch(PYTORCHS)(outs, *args)
        verdict = OP.tolerance[0].judge(outs[0], OP.oracle(args)[0], OP.results(args)[0], args)
        assert verdict.ok, (case, verdict.text)
        taken += 1
    assert taken >= 2


def test_pytorchs_grouped_matmul_says_what_it_can_not_do() -> None:
    assert PYTORCHS.rejects(_aligned()) is None
    p = _aligned()
    wide = torch.zeros(len(p.a), 400).to(E4M3)
    for change, text in (
        (dict(out_dtype=torch.float16), "bf16 only"),
        (dict(bias=torch.ones(4, 48)), "no bias, no activation"),
        (dict(activation="silu"), "no bias, no activation"),
        (dict(residual=torch.ones(len(p.a), 48)), "no bias, no activation"),
        (dict(batch_invariant=True), "by M"),
        (dict(a=p.a.view(torch.float8_e5m2)), "e4m3 for both"),
        (dict(scale_a=torch.ones(())), "for each row of both"),
        (dict(scale_b=torch.ones(4, 1, 1)), "for each row of both"),
        (dict(scale_a=torch.ones(len(p.a), 2)[:, :1]), "scale_a must be contiguous"),
        (dict(offsets=p.offsets.repeat_interleave(2)[::2]), "offsets must be contiguous"),
        (dict(a=wide[:, 8:280]), "a must have contiguous rows"),
        (dict(b=p.b.mT.clone(memory_format=torch.contiguous_format).mT), "b must have contiguous"),
        (dict(a=wide[:, :264], b=p.b[..., :264]), "multiples of 16, here 264 and 48"),
        (dict(offsets=None, masked_m=torch.ones(4)), "not masked ones"),
        (dict(a=p.a[:0], scale_a=p.scale_a[:0]), "empty"),
        (dict(b=p.b[:1].expand(1024, -1, -1), scale_b=torch.ones(1024, 48, 1)), "here 1024"),
    ):
        assert text in (PYTORCHS.rejects(_aligned(**change)) or "accepted"), change


def test_pytorchs_grouped_matmul_serves_where_a_table_says_so_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody has run it, so the reference goes before it."""
    args = OP.meta_inputs(OP.case("qwen3-235b-gate-up-8192"))

    def served() -> str | None:
        with _dispatch.assume_sm(90):
            return explain_flat(OP, args, torch.device("cuda")).provider

    assert served() == "reference"
    chosen = _tuned.Tuned(PYTORCHS.name, "a simulated record")
    monkeypatch.setattr(_tuned, "tuned", lambda op, problem: chosen)
    assert served() == PYTORCHS.name
