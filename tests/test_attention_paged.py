"""What the declarations of the ops on a paged cache can't say of themselves."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
import torch
from torch import Tensor

import aimills_kernels as ak
from aimills_kernels import _dispatch
from aimills_kernels._op import Case
from aimills_kernels._registry import get_op, torch_op
from aimills_kernels._validate import validate
from aimills_kernels.kernels.attention.pages import share_memory

OP, APPEND = get_op("attention_paged"), get_op("kv_append")


def _randn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Cache:
    """Pages of `size` for B sequences of up to `capacity` keys, in random order, full of NaN."""

    def __init__(self, B: int, capacity: int, size: int, G: int, D: int, seed: int):
        listed = -(-capacity // size)
        order = torch.randperm(B * listed + 2, generator=torch.Generator().manual_seed(seed))
        self.table = order[: B * listed].view(B, listed).to(torch.int32)
        self.k, self.v = (torch.full((len(order), size, G, D), torch.nan) for _ in range(2))
        self.lens = torch.zeros(B, dtype=torch.int32)

    def append(self, k: Tensor, v: Tensor) -> None:
        ak.kv_append(k, v, self.k, self.v, self.table, self.lens)
        self.lens += k.shape[1]

    def attend(self, q: Tensor, **given: Any) -> Any:
        return ak.attention_paged(q, self.k, self.v, self.table, self.lens, **given)


@pytest.mark.parametrize("size", [1, 3, 16])
@pytest.mark.parametrize("given", [
    {}, {"window": (5, 0)}, {"softcap": 2.0, "sinks": torch.tensor([0.5, -1.0, 1.0, 0.0])},
    {"alibi_slopes": torch.tensor([0.5, 0.25, 0.125, 1.0])},
], ids=["plain", "window", "softcap-sinks", "alibi"])  # fmt: skip
def test_a_prompt_in_chunks_and_steps_is_one_attention(
    size: int, given: dict[str, Any], seed: int
) -> None:
    """Appended and attended to piece by piece: each row as in one causal attention over all."""
    B, N = 2, 21
    q, k, v = (_randn(seed + i, B, N, h, 8) for i, h in enumerate((4, 2, 2)))
    want, want_lse = ak.attention(q, k, v, causal=True, return_lse=True, **given)
    cache = Cache(B, N, size, 2, 8, seed)
    for begin, end in itertools.pairwise((0, 7, 15, *range(16, N + 1))):
        cache.append(k[:, begin:end], v[:, begin:end])
        out, lse = cache.attend(q[:, begin:end], causal=True, return_lse=True, **given)
        torch.testing.assert_close(out, want[:, begin:end])
        torch.testing.assert_close(lse, want_lse[:, :, begin:end])


def test_fp8_caches_are_the_quantised_keys(seed: int) -> None:
    """Append and attention with scales by head: as on keys that were quantised by hand."""
    q, k, v = (_randn(seed + i, 2, 9, h, 16).bfloat16() for i, h in enumerate((4, 2, 2)))
    k[0, 2, 0, 3] = 20  # saturates: the largest code stands for 4.48
    cache, e4m3 = Cache(2, 9, 4, 2, 16, seed), torch.float8_e4m3fn
    cache.k, cache.v = (torch.zeros_like(t, dtype=e4m3) for t in (cache.k, cache.v))
    scales = torch.tensor([0.01, 0.25]), torch.tensor(0.5)
    named = dict(zip(("k_scale", "v_scale"), scales, strict=True))
    ak.kv_append(k, v, cache.k, cache.v, cache.table, cache.lens, **named)
    cache.lens += 9
    k, v = (
        (t.float() / s.view(-1, 1)).clamp(-448, 448).to(e4m3).float() * s.view(-1, 1)
        for t, s in zip((k, v), scales, strict=True)
    )
    torch.testing.assert_close(k[0, 2, 0, 3], torch.tensor(4.48))
    want = ak.attention(q.float(), k, v, causal=True)
    got = cache.attend(q, causal=True, **named)
    # bf16 outputs; a scale that is passed over changes them by far more.
    torch.testing.assert_close(got.float(), want, rtol=1e-2, atol=1e-2)


def test_packed_queries_are_those_of_each_sequence(seed: int) -> None:
    lens, q_lens = (9, 30, 0, 12), (1, 7, 0, 12)
    cache = Cache(4, 30, 4, 2, 8, seed)
    k, v = _randn(seed, 4, 30, 2, 8), _randn(seed + 1, 4, 30, 2, 8)
    cache.append(k, v)
    cache.lens = torch.tensor(lens, dtype=torch.int32)
    q = _randn(seed + 2, sum(q_lens), 4, 8)
    cu = torch.tensor([0, *itertools.accumulate(q_lens)], dtype=torch.int32)
    out, lse = cache.attend(q, cu_seqlens_q=cu, causal=True, return_lse=True)
    for b, (begin, end) in enumerate(itertools.pairwise(cu.tolist())):
        want, want_lse = ak.attention(
            q[None, begin:end], k[b : b + 1, : lens[b]], v[b : b + 1, : lens[b]], causal=True,
            return_lse=True,
        )  # fmt: skip
        torch.testing.assert_close(out[begin:end], want[0])
        torch.testing.assert_close(lse[:, begin:end], want_lse[0])


def test_states_over_two_halves_merge_into_one(seed: int) -> None:
    q, k, v = (_randn(seed + i, 2, n, h, 16) for i, (n, h) in enumerate(((3, 4), (40, 2), (40, 2))))
    want = ak.attention(q, k, v, return_lse=True)
    halves = [ak.attention(q, k[:, s], v[:, s], return_lse=True)
              for s in (slice(0, 13), slice(13, 40))]  # fmt: skip
    for got, expected in zip(ak.merge_attention_states(*halves[0], *halves[1]), want, strict=True):
        torch.testing.assert_close(got, expected)
    nothing = torch.full_like(halves[0][0], torch.nan), torch.full_like(halves[0][1], -torch.inf)
    for got, expected in zip(ak.merge_attention_states(*nothing, *halves[1]), halves[1],
                             strict=True):  # fmt: skip
        torch.testing.assert_close(got, expected)
    out, lse = ak.merge_attention_states(*nothing, *nothing)
    assert not out.any()
    assert (lse == -torch.inf).all()


def test_merging_has_the_gradients_of_its_formula(seed: int) -> None:
    given = [_randn(seed + i, *s).double() for i, s in enumerate(((3, 2, 4), (2, 3)) * 2)]
    reference = get_op("merge_attention_states").reference
    assert torch.autograd.gradcheck(reference, [t.requires_grad_() for t in given])
    gone = torch.full((2, 3), -torch.inf, requires_grad=True)
    out, lse = ak.merge_attention_states(given[0].float(), gone, given[2].float(), given[3].float())
    (out.sum() + lse.sum()).backward()
    assert all(t.grad is not None and t.grad.isfinite().all() for t in (gone, given[0], *given[2:]))


def _paged(name: str, seed: int) -> tuple[Any, dict[str, Any]]:
    """Arguments of the public function for a case."""
    named = dict(zip(OP.params, OP.make_inputs(OP.case(name).on("cpu"), "cpu", seed), strict=True))
    named["window"] = named.pop("window_left"), named.pop("window_right")
    return [named.pop(n) for n in OP.params[:5]], named


@pytest.mark.parametrize("name", ["tiny", "split", "split-packed", "fp8"])
def test_a_workspace_and_an_output_change_nothing(name: str, seed: int) -> None:
    tensors, named = _paged(name, seed)
    named["return_lse"] = False
    want = ak.attention_paged(*tensors, **named)
    size = ak.attention_workspace(*tensors[:4], cu_seqlens_q=named["cu_seqlens_q"])
    work = torch.full((size + 16,), 255, dtype=torch.uint8)
    out = torch.full_like(want, torch.nan)
    assert ak.attention_paged(*tensors, **named, workspace=work, out=out) is out
    assert torch.equal(out, want)
    assert torch.equal(ak.attention_paged(*tensors, **named, workspace=work), want)
    named["return_lse"] = True
    for got, expected in zip(
        ak.attention_paged(*tensors, **named, workspace=work),
        ak.attention_paged(*tensors, **named), strict=True,
    ):  # fmt: skip
        assert torch.equal(got, expected)


def test_the_workspace_is_as_small_as_promised() -> None:
    """At most splits x B x H x M x (Dv + 2) floats, and a table's length decides on splits."""
    for name in ("split", "split-packed", "llama3-8b-decode-one", "capacity"):
        args = OP.meta_inputs(OP.case(name))
        q, k_cache, v_cache, table = args[:4]
        floats = ak.attention_workspace(*args[:4], cu_seqlens_q=args[5]) / 4
        splits = floats / (q.numel() // q.shape[-1] * (v_cache.shape[3] + 2))
        assert splits in range(2, -(-table.shape[1] * k_cache.shape[1] // 256) + 1), name
    args = OP.meta_inputs(OP.case("page-64"))
    assert ak.attention_workspace(*args[:4]) == 0


def test_a_workspace_that_does_not_fit_is_refused(seed: int) -> None:
    tensors, named = _paged("split", seed)
    named["return_lse"] = False
    size = ak.attention_workspace(*tensors[:4])
    assert size > 0
    whole = torch.empty(size + 16, dtype=torch.uint8)
    for bad, says in (
        (whole[: size - 1], f"workspace must have at least {size} bytes, got {size - 1}"),
        (torch.empty(size // 4), f"workspace must be a contiguous uint8 tensor of {size} bytes"),
        (whole[::2], "workspace must be a contiguous uint8 tensor"),
        (whole.view(2, -1), "workspace must be a contiguous uint8 tensor"),
        (whole.to("meta"), "workspace must be a contiguous uint8 tensor"),
        (whole[1:], "workspace must start at a multiple of 16 bytes"),
        (tensors[1].view(-1).view(torch.uint8), "workspace must share no memory"),
        (7, "workspace must be a tensor, got int"),
    ):
        with pytest.raises(ValueError, match=f"attention_paged: {says}"):
            ak.attention_paged(*tensors, **named, workspace=bad)
    for wrong, says in (
        ({"softcap": None}, "softcap must be a number, got None"),
        ({"scale": "a"}, "scale must be a number, got 'a'"),
        ({"softcap": torch.ones(2)}, "softcap must be a number, got tensor"),
    ):
        with pytest.raises(ValueError, match=f"attention_paged: {says}"):
            ak.attention_paged(*tensors, **{**named, **wrong}, workspace=whole)
    with pytest.raises(ValueError, match="out= holds one tensor"):
        ak.attention_paged(*tensors, workspace=whole, out=torch.empty(1), return_lse=True)
    with pytest.raises(ValueError, match="k_cache must be a tensor"):
        ak.attention_workspace(tensors[0], None, *tensors[2:4])


def test_a_decoding_step_compiles_once_for_all_lengths(seed: int) -> None:
    """Append and attend in one graph without a break; lengths, tables and pages change freely."""
    graphs = 0

    def count(graph: Any, inputs: Any) -> Any:
        nonlocal graphs
        graphs += 1
        return graph

    def step(q: Tensor, k: Tensor, v: Tensor, cache: list[Tensor], work: Tensor) -> Tensor:
        k_cache, v_cache, table, lens = cache
        ak.kv_append(k, v, k_cache, v_cache, table, lens)
        lens = lens + 1
        plain = ak.attention_paged(q, k_cache, v_cache, table, lens, causal=True)
        out = ak.attention_paged(q, k_cache, v_cache, table, lens, causal=True, workspace=work)
        return plain + out

    watched = torch.compile(step, fullgraph=True, backend=count)
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    work = torch.empty(1 << 16, dtype=torch.uint8)
    for i, lengths in enumerate(((0, 5), (19, 1), (3, 3))):
        base = Cache(2, 20, 4, 2, 8, seed + i)
        base.append(_randn(seed, 2, 20, 2, 8), _randn(seed + 1, 2, 20, 2, 8))
        lens = torch.tensor(lengths, dtype=torch.int32)
        q, k, v = (_randn(seed + 3 * i + j, 2, 1, h, 8) for j, h in enumerate((4, 2, 2)))
        found = []
        for call in (step, watched, compiled):
            cache = [base.k.clone(), base.v.clone(), base.table, lens]
            found.append((call(q, k, v, cache, work), *cache[:2]))
        for other in found[1:]:
            for got, want in zip(other, found[0], strict=True):
                torch.testing.assert_close(got, want, equal_nan=True, rtol=0, atol=0)
    assert graphs == 1


def test_what_an_append_can_not_do(seed: int) -> None:
    k, k_cache = torch.zeros(1, 1, 1, 8), torch.zeros(2, 4, 1, 8)
    table, lens = torch.zeros(1, 1, dtype=torch.int32), torch.zeros(1, dtype=torch.int32)
    with pytest.raises(ValueError, match="kv_append: k_cache is written to and must not require"):
        ak.kv_append(k, k, k_cache.clone().requires_grad_(), k_cache, table, lens)
    with pytest.raises(ValueError, match=r"kv_append: can't be used under torch\.vmap"):
        torch.vmap(lambda x: ak.kv_append(x, x, k_cache, k_cache.clone(), table, lens))(k[None])
    ak.kv_append(k.requires_grad_(), k, k_cache, k_cache.clone(), table, lens)
    assert not k_cache.requires_grad


def test_caches_that_share_an_element_are_told_from_such_that_do_not(seed: int) -> None:
    rng, memory = random.Random(seed), torch.arange(4000)
    found = {True: 0, False: 0}
    for _ in range(400):
        shape, Dv = rng.choices(range(1, 5), k=4), rng.randint(1, 4)
        strides, reach = [0] * 4, 1
        for d in rng.sample(range(4), 4):
            strides[d] = reach + rng.choice([0, 0, 1, 3])
            reach = strides[d] * (shape[d] if d < 3 else max(shape[d], Dv))
        k = memory.as_strided(shape, strides, rng.randint(0, 60))
        v = memory.as_strided([*shape[:3], Dv], strides, rng.randint(0, 120))
        shares = bool(set(k.flatten().tolist()) & set(v.flatten().tolist()))
        assert share_memory(k, v) == shares, (k.shape, v.shape, strides)
        found[shares] += 1
    assert min(found.values()) > 20, found
    assert not share_memory(memory.view(1, 1, 1, -1)[..., :0], memory.view(1, 1, 1, -1))


def test_a_second_append_of_the_same_shape_is_made(seed: int) -> None:
    """A call that was made before goes past torch's dispatcher."""
    for _ in range(3):
        cache, k = Cache(2, 8, 4, 1, 8, seed), _randn(seed, 2, 3, 1, 8)
        cache.append(k, k)
        place = cache.k[cache.table[0, 0], :3]
        torch.testing.assert_close(place, k[0], rtol=0, atol=0)


@pytest.mark.parametrize(("op", "case", "bad", "says"), [
    (OP, "tiny", {"page_table": 99}, "page_table must name pages"),
    (OP, "tiny", {"cache_seqlens": 99}, "cache_seqlens must be 0 to"),
    (APPEND, "tiny", {"page_table": 99}, "page_table must name pages"),
], ids=["page", "length", "append"])  # fmt: skip
def test_values_are_looked_at_on_a_gpu_where_asked(
    op: Any, case: str, bad: dict[str, int], says: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AIMILLS_CHECK=1 decides; the check itself runs on whatever device its tensors are."""
    named = dict(zip(op.params, op.make_inputs(op.case(case), "cpu", seed), strict=True))
    for name, value in bad.items():
        named[name] = torch.full_like(named[name], value)
    gpu = torch.device("cuda", 0)
    assert _dispatch.value_check(op, gpu) is None
    monkeypatch.setattr(_dispatch, "_CHECK_ON_GPU", True)
    check = _dispatch.value_check(op, gpu)
    assert check is not None
    with pytest.raises(ValueError, match=says):
        check(*op.flat(named))


@pytest.mark.parametrize("fault", ["elsewhere", "beyond", "unscaled", "nothing"])
def test_validation_sees_a_wrong_append(fault: str, seed: int, monkeypatch: Any) -> None:
    """A slot too many, a gap, a scale forgotten, nothing done."""

    def launch(outs: tuple[()], k: Tensor, v: Tensor, *args: Any) -> None:
        k_cache, v_cache = args[:2]
        if fault == "nothing":
            return
        if fault == "unscaled":
            args = (*args[:5], None, *args[6:])
        APPEND.reference(k, v, *args)
        if fault == "elsewhere":
            last = int(args[2][0, 0])
            v_cache.view(torch.uint8)[(last + 1) % len(v_cache), 0] ^= 1
        if fault == "beyond":
            k_cache.as_strided((1,), (1,), k_cache.storage_offset() - 1).view(torch.uint8).zero_()

    monkeypatch.setattr(_dispatch, "raw_launch", lambda _: launch)
    monkeypatch.setattr(_dispatch, "load", lambda _: launch)
    result = validate(APPEND, "tiny-e4m3", "reference", device="cpu", seed=seed)
    assert not result.ok
    says = {"beyond": "written beyond an argument", "nothing": "k_cache: bits differ",
            "unscaled": "k_cache: bits differ", "elsewhere": "v_cache: bits differ"}  # fmt: skip
    assert says[fault] in str(result)


def test_what_must_not_be_read_is_nan_in_every_case(seed: int) -> None:
    """So that a kernel that reads it shows: slots beyond the lengths, and pages in no table."""
    for case in OP.cases:
        args = OP.make_inputs(Case("small", **case.on("cpu").dims), "cpu", seed)
        k_cache, table, lens = args[1], args[3], args[4]
        if k_cache.numel() == 0 or case.get("layout") == "sparse":
            continue
        used = int(k_cache.float().isfinite()[..., 0, 0].sum())
        assert used == int(lens.sum()) or (case.get("window") and used < int(lens.sum())), case
        pages = {int(p) for p in table.view(-1) if p < len(k_cache)}
        assert len(pages) + case.get("spare", 2) == len(k_cache), case


def test_the_flat_op_is_registered_without_an_out_for_what_mutates() -> None:
    assert not hasattr(torch.ops.aimills, "kv_append_out")
    schema = torch_op("kv_append")._schema
    written = {a.name for a in schema.arguments if a.alias_info and a.alias_info.is_write}
    assert written == {"k_cache", "v_cache"}
    assert not schema.returns
