"""Packing of 4-bit weights, and what the declaration of `matmul_w4` can't say of itself."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import aimills_kernels as ak
from aimills_kernels import _aot
from aimills_kernels._registry import get_op
from aimills_kernels.kernels.matmul import config_w4, epilogue, layout_w4
from aimills_kernels.kernels.matmul.config_w4 import select_config

OP = get_op("matmul_w4")


def _parts(N: int, K: int, groups: int, asym: bool, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    scales = torch.from_numpy(rng.uniform(0.1, 1, (groups, N))).half()
    zeros = torch.from_numpy(rng.integers(0, 17, (groups, N), dtype=np.uint8)) if asym else None
    codes = torch.from_numpy(rng.integers(0, 16, (N, K), dtype=np.uint8))
    return {"weight": codes, "scales": scales, "zeros": zeros}


def _mixed(K: int, group_size: int, seed: int) -> Tensor:
    """An activation order: whole groups, their columns anywhere."""
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.permutation(np.arange(K) // group_size)).int()


WEIGHTS: dict[str, dict[str, Any]] = {
    "g128": dict(K=300, size=128, asym=False),
    "g64": dict(K=200, size=64, asym=True),
    "g32": dict(K=77, size=32, asym=True),
    "whole": dict(K=256, size=64, asym=False),
    "channel": dict(K=77, size=None, asym=True),
    "act-order": dict(K=200, size=32, asym=True, order=True),
    "uneven": dict(K=90, size=32, asym=False, order="uneven"),
}


def _packed(name: str, seed: int = 0) -> tuple[ak.PackedWeight, dict[str, Any]]:
    w = WEIGHTS[name]
    size, K = w["size"] or w["K"], w["K"]
    parts = _parts(7, K, -(-K // size), w["asym"], seed)
    if w.get("order"):
        parts["g_idx"] = _mixed(K, size, seed)
        if w["order"] == "uneven":
            parts["g_idx"] = (parts["g_idx"] > 0).int() * 2
    scheme = f"w4-g{size}" if w["size"] else "w4-channel"
    return ak.PackedWeight.pack(scheme=scheme + "-asym" * w["asym"], **parts), parts


def _value(parts: dict[str, Any], K: int) -> Tensor:
    """(code - zero) * scale in float64, column by column."""
    codes, scales, zeros = (parts[n] for n in ("weight", "scales", "zeros"))
    g_idx = parts.get("g_idx")
    if g_idx is None:
        size = 1 if K == 0 else -(-K // scales.shape[0])
        size = next((s for s in (32, 64, 128) if -(-K // s) == scales.shape[0]), size)
        g_idx = torch.arange(K) // size
    columns = []
    for k in range(K):
        g = int(g_idx[k])
        zero = 8.0 if zeros is None else zeros[g].double()
        columns.append((codes[:, k].double() - zero) * scales[g].double())
    return torch.stack(columns, 1)


@pytest.mark.parametrize("name", WEIGHTS)
def test_packing_loses_nothing(name: str, seed: int) -> None:
    packed, parts = _packed(name, seed)
    back = packed.unpack()
    assert torch.equal(back.codes, parts["weight"])
    assert torch.equal(back.scales, parts["scales"])
    assert back.scales.dtype == torch.float16
    assert (back.zeros is None) == (parts["zeros"] is None)
    if back.zeros is not None:
        assert torch.equal(back.zeros, parts["zeros"])
    if "g_idx" in parts:
        assert torch.equal(back.g_idx, parts["g_idx"])
    want = _value(parts, packed.shape[1])
    assert torch.equal(packed.dequantize(torch.float64), want)
    assert (packed.perm is not None) == ("g_idx" in parts)
    assert (packed.group_of is not None) == (name == "uneven")


def test_a_word_holds_what_the_page_says() -> None:
    codes = torch.arange(64, dtype=torch.uint8)[None] % 16
    codes[0, 3 + 48] = 9
    word = int(layout_w4.pack_nibbles(codes)[0, 3]) & 0xFFFF
    assert word == 3 | 3 << 4 | 3 << 8 | 9 << 12


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("dim", [0, 1])
def test_shards_at_any_boundary(name: str, dim: int, seed: int) -> None:
    packed, parts = _packed(name, seed)
    size = packed.shape[dim]
    cuts = [0, 1, 3, 3, 5, size] if dim == 0 else [0, 1, 31, 33, 64, 64, 75, size]
    shards = [packed.shard(dim, a, b) for a, b in itertools.pairwise(cuts)]
    whole = torch.cat([s.dequantize(torch.float64) for s in shards], dim)
    assert torch.equal(whole, packed.dequantize(torch.float64))
    codes = torch.cat([s.unpack().codes for s in shards], dim)
    assert torch.equal(codes, parts["weight"])
    for shard in shards:  # what each column is scaled by, as given
        back = shard.unpack()
        at = slice(0, 0) if 0 in shard.shape else back.g_idx.long()
        assert (shard.scales[at] != 0).all()
        again = shard.shard(1, 0, shard.shape[1])
        assert torch.equal(again.dequantize(), shard.dequantize())
    x = torch.randn(4, packed.shape[1], generator=torch.Generator().manual_seed(seed)).bfloat16()
    columns = [(0, packed.shape[1])] if dim == 0 else list(itertools.pairwise(cuts))
    parts_of_x = [x[:, a:b] for a, b in columns]
    exact = [p.double() @ whole[:, a:b].T for p, (a, b) in zip(parts_of_x, columns, strict=True)]
    if dim == 0:
        got = torch.cat([ak.matmul_w4(x, s).double() for s in shards], 1)
    else:
        got = sum(ak.matmul_w4(p, s).double() for p, s in zip(parts_of_x, shards, strict=True))
    # Each part is rounded once, by 2^-8 of it at the most; a float32 sum loses far less.
    most = sum(e.abs() for e in exact)
    assert ((got - sum(exact)).abs() <= 2**-8 * most + 1e-5 * most.max()).all()


def test_shards_of_shards_and_their_memory(seed: int) -> None:
    packed, _ = _packed("g128", seed)
    inner = packed.shard(1, 50, 290).shard(1, 90, 171)
    assert torch.equal(inner.dequantize(), packed.dequantize()[:, 140:221])
    assert inner.offset == 12
    assert inner.scales.shape[0] == 1
    for shard in (packed.shard(0, 2, 4), packed.shard(1, 128, 256)):
        for t in shard._named().values():
            assert t.untyped_storage().nbytes() == t.numel() * t.element_size()


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("dim", [0, 1])
def test_shards_share_no_memory(name: str, dim: int, seed: int, tmp_path: Any) -> None:
    """The whole as a shard neither; safetensors refuses tensors that share any."""
    packed, _ = _packed(name, seed)
    size = packed.shape[dim]
    shards = [packed, *(packed.shard(dim, *cut) for cut in ((0, size), (0, 5), (5, size)))]
    places = [t.untyped_storage().data_ptr() for s in shards for t in s._named().values()]
    assert len(places) == len(set(places))
    tensors = {n: t for i, s in enumerate(shards) for n, t in s.tensors(str(i)).items()}
    save_file(tensors, tmp_path / "w.safetensors")


@pytest.mark.parametrize("name", WEIGHTS)
def test_safetensors_round_trip(name: str, seed: int, tmp_path: Any) -> None:
    packed, _ = _packed(name, seed)
    packed = packed.shard(1, 5, packed.shape[1])
    save_file(packed.tensors("layers.0.q"), tmp_path / "w.safetensors")
    again = ak.PackedWeight.from_tensors(load_file(tmp_path / "w.safetensors"), "layers.0.q")
    assert again._named().keys() == packed._named().keys()
    for n, t in packed._named().items():
        assert torch.equal(t, again._named()[n])
    sizes = [(w.group_size, w.offset, w.in_features) for w in (packed, again)]
    assert sizes[0] == sizes[1]


def _change(name: str, value: Any) -> Any:
    return lambda t: {**t, f"w.{name}": value(t[f"w.{name}"])}


def _drop(name: str) -> Any:
    return lambda t: {k: v for k, v in t.items() if k != f"w.{name}"}


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("g64", _drop("layout"), "'w.layout' is missing"),
        ("g64", _drop("codes"), "'w.codes' is missing"),
        ("g64", _drop("zeros"), "'w.zeros' is missing"),
        ("act-order", _drop("perm"), "'w.perm' is missing"),
        ("uneven", _drop("group_of"), "'w.group_of' is missing"),
        ("g128", lambda t: {**t, "w.zeros": t["w.scales"].byte()}, "'w.zeros' is of another"),
        ("g64", _change("codes", lambda t: t[:, :-16]), r"'w.codes' must be int16 \[7, 64\]"),
        ("g64", _change("scales", lambda t: t[:-1]), r"'w.scales' must be .* \[4, 7\]"),
        ("g64", _change("zeros", lambda t: t.int()), "'w.zeros' must be uint8"),
        ("act-order", _change("perm", lambda t: t[1:]), "'w.perm' must be int32"),
        ("uneven", _change("group_of", lambda t: t[1:]), "'w.group_of' must be int32"),
        ("g64", _change("layout", lambda t: t[1:]), r"'w.layout' must be int64\[9\]"),
        ("g64", _change("layout", lambda t: t + 1), "'w.layout' is of version 2, known is 1"),
        ("g64", _change("layout", lambda t: t * torch.tensor([1, 1, 1, 1, 0, 1, 1, 1, 1])),
         "'w.layout' holds sizes that no weight has"),
        ("g64", _change("layout", lambda t: torch.cat([t[:6], t[6:] * 7])),
         "'w.layout' holds sizes that no weight has"),
        ("g64", _change("layout", lambda t: t.to("meta")), r"'w.layout' must be int64\[9\] with"),
        ("g64", _change("scales", lambda t: t.tolist()), "'w.scales' must be a tensor, got list"),
        ("g64", _change("scales", lambda t: t.to("meta")), "'w.scales' must be on cpu as codes"),
        ("g64", _change("scales", lambda t: t * torch.nan), "scales must be finite"),
        ("g64", _change("zeros", lambda t: t + 17), "zeros must be 0 to 16"),
        ("act-order", _change("perm", lambda t: t.clamp_min(1)), "perm must name each of the"),
        ("uneven", _change("group_of", lambda t: t + 90), "group_of must be 0 to"),
    ],
)  # fmt: skip
def test_a_truncated_or_mixed_up_set_names_the_tensor(name: str, change: Any, says: str) -> None:
    packed, _ = _packed(name)
    with pytest.raises(ValueError, match=f"PackedWeight.from_tensors(: | of 'w': ){says}"):
        ak.PackedWeight.from_tensors(change(packed.tensors("w")), "w")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"weight": torch.zeros(3)}, r"weight must be \[N, K\], got float32\[3\]"),
        ({"weight": [[1]]}, r"weight must be \[N, K\], got list"),
        ({"scheme": "w4-g48"}, "scheme must be w4-g32, .*, got 'w4-g48'"),
        ({"scheme": None}, "scheme must be .*, got None"),
        ({"weight": torch.zeros(3, 64)}, "scales belongs to uint8 codes"),
        ({"weight": torch.full((3, 64), 16, dtype=torch.uint8)}, "codes must be 0 to 15, got 16"),
        ({"scales": None}, "codes need scales"),
        ({"scales": torch.ones(3, 2)}, r"scales must be \[2, 3\], got float32\[3, 2\]"),
        ({"scales": torch.ones(2, 3).int()}, "scales must be f16, bf16 or f32"),
        ({"scales": torch.zeros(2, 3)}, "scales must not be 0"),
        ({"scales": torch.full((2, 3), torch.nan)}, "scales must be finite"),
        ({"scheme": "w4-g32-asym"}, "scheme 'w4-g32-asym' needs zeros"),
        ({"zeros": torch.ones(2, 3, dtype=torch.uint8)}, "scheme 'w4-g32' takes no zeros"),
        ({"scheme": "w4-g32-asym", "zeros": torch.ones(1, 3, dtype=torch.uint8)},
         r"zeros must be uint8\[2, 3\]"),
        ({"scheme": "w4-g32-asym", "zeros": torch.full((2, 3), 17, dtype=torch.uint8)},
         "zeros must be 0 to 16, got 17"),
        ({"g_idx": torch.zeros(63).int()}, r"g_idx must be integers \[64\]"),
        ({"g_idx": torch.zeros(64).bool()}, r"g_idx must be integers \[64\], got bool\[64\]"),
        ({"g_idx": torch.full((64,), 2)}, "g_idx must be 0 to 1, a row of scales, got 2 to 2"),
        ({"scales": torch.ones(2, 3, device="meta")}, None),
        ({"scales": [[1.0] * 3] * 2}, "scales must be a tensor, got list"),
    ],
)  # fmt: skip
def test_bad_parts_are_named(change: dict[str, Any], says: str | None) -> None:
    given: dict[str, Any] = dict(
        weight=torch.zeros(3, 64, dtype=torch.uint8), scheme="w4-g32", scales=torch.ones(2, 3)
    )
    with pytest.raises(ValueError, match="scales must be on cpu" if says is None else says):
        ak.PackedWeight.pack(**{**given, **change})


@pytest.mark.parametrize("scheme", ["w4-g32", "w4-g64-asym", "w4-g128-asym", "w4-channel"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_quantising_is_to_the_nearest(scheme: str, dtype: torch.dtype, seed: int) -> None:
    w = torch.randn(5, 300, generator=torch.Generator().manual_seed(seed)).to(dtype)
    w[1, :64], w[2, 7], w[3] = 0, 50, w[3].abs()
    packed = ak.PackedWeight.pack(w, scheme)
    assert packed.scales.dtype == dtype
    _, scales, zeros, g_idx = packed.unpack()
    step = scales.double()[g_idx.long()].T
    zero = 8.0 if zeros is None else zeros.double()[g_idx.long()].T
    error = (packed.dequantize(torch.float64) - w.double()).abs()
    # Half a step; a scale that was rounded down cuts the largest off by 15 of its roundings.
    assert (error <= step * (0.5 + 15 * torch.finfo(dtype).eps)).all()
    best = (w.double() / step).round() + zero
    best = (best.clamp(0 if zeros is not None else 1, 15) - zero) * step
    assert (error <= (best - w.double()).abs() + 1e-5 * step).all()
    assert (packed.dequantize(torch.float64)[1, :32] == 0).all()


def test_a_weight_that_is_not_finite_is_refused() -> None:
    w = torch.ones(2, 64)
    w[1, 3] = torch.inf
    with pytest.raises(ValueError, match="weight must be finite"):
        ak.PackedWeight.pack(w)
    with pytest.raises(ValueError, match="weight must be f16, bf16, f32 or uint8"):
        ak.PackedWeight.pack(w.int())
    for bad in [(2, 0, 1), (0, 1, 0), (1, 0, 65), (1, -1, 2), (1, 0.0, 2), (1, 0, None)]:
        with pytest.raises(ValueError, match=r"PackedWeight\.shard: (dim|start|stop).* must be"):
            ak.PackedWeight.pack(torch.ones(2, 64)).shard(*bad)


# ---- the public function


@pytest.mark.parametrize("shape", [(77,), (2, 3, 77), (0, 4, 77), (1, 1, 77)])
def test_leading_dims_and_out(shape: tuple[int, ...], seed: int) -> None:
    packed, _ = _packed("g32", seed)
    x = torch.randn(shape).bfloat16()
    bias = torch.randn(7)
    want = ak.matmul_w4(x.reshape(-1, 77), packed, bias=bias, activation="silu")
    got = ak.matmul_w4(x, packed, bias=bias, activation="silu")
    assert got.shape == (*shape[:-1], 7)
    assert torch.equal(got, want.reshape(got.shape))
    out = torch.empty_like(got)
    assert ak.matmul_w4(x, packed, bias=bias, activation="silu", out=out) is out
    assert torch.equal(out, got)


def test_what_the_public_function_refuses() -> None:
    packed, _ = _packed("g32")
    x = torch.randn(2, 3, 77).bfloat16()
    for args, named, says in [
        ((x, packed.codes), {}, "packed must be a PackedWeight, got Tensor"),
        (([1.0], packed), {}, "x must be a tensor, got list"),
        ((x[..., :70], packed), {}, r"x must be \[\.\.\., 77\], as wide as packed"),
        ((x, packed), {"activation": "swish"}, "activation must be one of none, relu"),
        ((x, packed), {"out": torch.empty(6, 7).bfloat16()}, r"out must be \[2, 3, 7\]"),
        ((x, packed), {"out": torch.empty(3, 2, 7).bfloat16().transpose(0, 1)}, "out must be such"),
        ((x, packed), {"batch_invariant": True}, "batch_invariant|no provider"),
        ((x, packed), {"batch_invariant": 1}, "batch_invariant must be True or False, got 1"),
        ((x, packed), {"residual": torch.zeros(6, 7)}, r"residual must be \[2, 3, 7\], as out"),
        ((x, packed), {"activation": "swiglu"}, "codes must have an even N for swiglu"),
    ]:
        with pytest.raises(ValueError, match=says):
            ak.matmul_w4(*args, **named)


def test_gradients_reach_x_and_bias(seed: int) -> None:
    packed, _ = _packed("act-order", seed)
    x = torch.randn(3, 200).bfloat16().requires_grad_()
    bias = torch.randn(7, requires_grad=True)
    ak.matmul_w4(x, packed, bias=bias, activation="relu").float().pow(2).sum().backward()
    y, b = x.detach().double().requires_grad_(), bias.detach().double().requires_grad_()
    torch.relu(y @ packed.dequantize(torch.float64).T + b).pow(2).sum().backward()
    assert x.grad is not None
    assert bias.grad is not None
    assert (x.grad - y.grad).norm() <= 0.01 * y.grad.norm()
    assert (bias.grad - b.grad).norm() <= 0.01 * b.grad.norm()


@pytest.mark.full
def test_it_compiles_with_a_packed_weight(seed: int) -> None:
    packed, _ = _packed("g64", seed)
    x = torch.randn(2, 3, 200).bfloat16()
    compiled = torch.compile(ak.matmul_w4, fullgraph=True, backend="eager")
    assert torch.equal(compiled(x, packed), ak.matmul_w4(x, packed))


@pytest.mark.parametrize("dtype", ["bf16", "f16"])
@pytest.mark.parametrize("group", [32, 128, "channel"])
def test_mean_error_is_within_the_contract(group: Any, dtype: str, seed: int) -> None:
    """2e-3 of the mean magnitude against float64, of which rounding to bf16 makes 1.4e-3."""
    case = _case(M=32, N=48, K=2048, group=group, asym=True, dtype=dtype)
    args = OP.make_inputs(case, "cpu", seed)
    (want,), got = OP.oracle(args), OP.reference(*args)
    assert (got.double() - want).abs().mean() <= 2e-3 * want.abs().mean()


def _case(**dims: Any) -> Any:
    return type(OP.case("tiny"))("drawn", **dims)


# ---- tiles


@pytest.mark.parametrize("step", [16, 32])
def test_an_invariant_choice_does_not_see_the_rows(step: int) -> None:
    for n, width in [(1, 16), (70, 300), (8192, 2048), (28672, 1024), (4096, 3584)]:
        for sm in (80, 90, 100, 120):
            made = {
                replace(select_config(m, n, width, step, aligned, True, sm), walked=False)
                for m in (1, 16, 17, 300, 9000)
                for aligned in (True, False)
            }
            assert len(made) == 1
            assert not select_config(1, 1, width, step, True, True, sm).walked


def test_the_workspace_is_what_splits_need() -> None:
    for name in ("llama3-8b-qkv-1", "llama3-8b-qkv-4096", "aot-invariant", "aot-invariant-walked"):
        args = OP.meta_inputs(OP.case(name))
        x, codes, *_ = args
        config = config_w4.config_of(x, codes, None, None, 128, 0, args[-1])
        asked = config_w4.workspace(*args)
        splits = config.splits if not config.walked else 0
        assert asked == (splits * x.shape[0] * codes.shape[0] if splits > 1 else 0)
        assert (asked > 0) == (name in ("llama3-8b-qkv-1", "aot-invariant"))


def test_one_kernel_adds_five_to_eight_splits_of_any_rows() -> None:
    """Layers of a model differ in their splits; a kernel for each would be compiled anew."""
    seen: list[Any] = []
    with _aot.compiling_for(90, seen.append):
        for splits, M in ((5, 3), (6, 16), (8, 64)):
            work = torch.empty(splits * M * 256, device="meta")
            out = torch.empty(M, 256, dtype=torch.bfloat16, device="meta")
            epilogue.add_splits(work, splits, M, 256, epilogue.End(out))
    assert len(seen) == 3
    assert len({kernel.hash for kernel in seen}) == 1
