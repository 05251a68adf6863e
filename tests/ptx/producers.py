"""Kernels in Triton and Gluon as others write them, to hold the executor against."""

# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)


@triton.jit
def by_pointers(
    a, b, c, M, N, K, b_row, b_column, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr
):
    """c = a b, a tile by each CTA, with masks; b has any strides."""
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    columns = tl.program_id(1) * BN + tl.arange(0, BN)
    depth = tl.arange(0, BK)
    lefts = a + rows[:, None] * K + depth[None, :]
    rights = b + depth[:, None] * b_row + columns[None, :] * b_column
    total = tl.zeros((BM, BN), tl.float32)
    for k in range(0, K, BK):
        inside = depth < K - k
        left = tl.load(lefts, (rows[:, None] < M) & inside[None, :], 0.0)
        right = tl.load(rights, inside[:, None] & (columns[None, :] < N), 0.0)
        total = tl.dot(left, right, total)
        lefts += BK
        rights += BK * b_row
    out = c + rows[:, None] * N + columns[None, :]
    tl.store(out, total.to(c.dtype.element_ty), (rows[:, None] < M) & (columns[None, :] < N))


@triton.jit
def by_descriptors(a, b, c, M, N, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    """c = a b.T with tensor maps made on the device; each CTA takes tiles until none is left."""
    left = tl.make_tensor_descriptor(a, [M, K], [K, 1], [BM, BK])
    right = tl.make_tensor_descriptor(b, [N, K], [K, 1], [BN, BK])
    out = tl.make_tensor_descriptor(c, [M, N], [N, 1], [BM, BN])
    wide = tl.cdiv(N, BN)
    for tile in range(tl.program_id(0), tl.cdiv(M, BM) * wide, tl.num_programs(0)):
        row, column = tile // wide * BM, tile % wide * BN
        total = tl.zeros((BM, BN), tl.float32)
        for k in range(0, K, BK):
            total = tl.dot(left.load([row, k]), right.load([column, k]).T, total)
        out.store([row, column], total.to(c.dtype.element_ty))


@triton.jit
def specialised(a, b, c, M, N, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    """c = a b.T, a tile by each CTA; the compiler divides loads and products among warpgroups."""
    left = tl.make_tensor_descriptor(a, [M, K], [K, 1], [BM, BK])
    right = tl.make_tensor_descriptor(b, [N, K], [K, 1], [BN, BK])
    out = tl.make_tensor_descriptor(c, [M, N], [N, 1], [BM, BN])
    row, column = tl.program_id(0) * BM, tl.program_id(1) * BN
    total = tl.zeros((BM, BN), tl.float32)
    for k in tl.range(0, K, BK, warp_specialize=True):
        total = tl.dot(left.load([row, k]), right.load([column, k]).T, total)
    out.store([row, column], total.to(c.dtype.element_ty))


@triton.jit
def attention(
    q, k, v, o, N, scale, D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, CAUSAL: tl.constexpr
):
    """o = softmax(q k.T) v of one head a column of the grid, keys in blocks, in base 2."""
    head = tl.program_id(1) * N * D
    first = tl.program_id(0) * BM
    queries = tl.make_tensor_descriptor(q + head, [N, D], [D, 1], [BM, D])
    keys = tl.make_tensor_descriptor(k + head, [N, D], [D, 1], [BN, D])
    values = tl.make_tensor_descriptor(v + head, [N, D], [D, 1], [BN, D])
    out = tl.make_tensor_descriptor(o + head, [N, D], [D, 1], [BM, D])
    query = queries.load([first, 0])
    rows = first + tl.arange(0, BM)
    top = tl.full((BM,), -float("inf"), tl.float32)
    weight = tl.zeros((BM,), tl.float32)
    total = tl.zeros((BM, D), tl.float32)
    last = tl.minimum(first + BM, N) if CAUSAL else N
    for at in range(0, last, BN):
        scores = tl.dot(query, keys.load([at, 0]).T) * scale
        columns = at + tl.arange(0, BN)
        seen = columns[None, :] < N
        if CAUSAL:
            seen = seen & (columns[None, :] <= rows[:, None])
        scores = tl.where(seen, scores, -float("inf"))
        higher = tl.maximum(top, tl.max(scores, 1))
        shares = tl.exp2(scores - higher[:, None])
        keep = tl.exp2(top - higher)
        weight = weight * keep + tl.sum(shares, 1)
        total = tl.dot(shares.to(q.dtype.element_ty), values.load([at, 0]), total * keep[:, None])
        top = higher
    out.store([first, 0], (total / weight[:, None]).to(o.dtype.element_ty))


@triton.jit
def attention_by_pointers(
    q, k, v, o, N, scale, D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, CAUSAL: tl.constexpr
):
    """The same with loads and stores by pointers, and masks in place of boxes."""
    head = tl.program_id(1) * N * D
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    block = tl.arange(0, BN)
    wide = tl.arange(0, D)
    own = head + rows[:, None] * D + wide[None, :]
    query = tl.load(q + own, rows[:, None] < N, 0.0)
    keys = k + head + wide[:, None] + block[None, :] * D
    values = v + head + block[:, None] * D + wide[None, :]
    top = tl.full((BM,), -float("inf"), tl.float32)
    weight = tl.zeros((BM,), tl.float32)
    total = tl.zeros((BM, D), tl.float32)
    last = tl.minimum(tl.program_id(0) * BM + BM, N) if CAUSAL else N
    for at in range(0, last, BN):
        columns = at + block
        key = tl.load(keys + at * D, columns[None, :] < N, 0.0)
        value = tl.load(values + at * D, columns[:, None] < N, 0.0)
        seen = columns[None, :] < N
        if CAUSAL:
            seen = seen & (columns[None, :] <= rows[:, None])
        scores = tl.where(seen, tl.dot(query, key) * scale, -float("inf"))
        higher = tl.maximum(top, tl.max(scores, 1))
        shares = tl.exp2(scores - higher[:, None])
        keep = tl.exp2(top - higher)
        weight = weight * keep + tl.sum(shares, 1)
        total = tl.dot(shares.to(q.dtype.element_ty), value, total * keep[:, None])
        top = higher
    tl.store(o + own, (total / weight[:, None]).to(o.dtype.element_ty), rows[:, None] < N)


# ---- Gluon: attention of three warpgroups, two for 64 queries each, one of whose warps loads


@gluon.jit
def _load(q, k, v, queries, keys, values, ready, full, free, row, count, STAGES: gl.constexpr):
    mbarrier.expect(ready, q.block_type.nbytes * 2)
    for half in gl.static_range(2):
        tma.async_copy_global_to_shared(q, [row + 64 * half, 0], ready, queries.index(half))
    for block in range(count):
        slot, turn = block % STAGES, block // STAGES
        mbarrier.wait(free.index(slot), (turn & 1) ^ 1)
        mbarrier.expect(full.index(slot), k.block_type.nbytes + v.block_type.nbytes)
        at = block * k.block_type.shape[0]
        tma.async_copy_global_to_shared(k, [at, 0], full.index(slot), keys.index(slot))
        tma.async_copy_global_to_shared(v, [at, 0], full.index(slot), values.index(slot))


@gluon.jit
def _attend(o, query, keys, values, ready, full, free, row, count, scale, STAGES: gl.constexpr):
    BN: gl.constexpr = keys.shape[1]
    D: gl.constexpr = keys.shape[2]
    scored: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BN, 16])
    summed: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, D, 16])
    row_of: gl.constexpr = gl.SliceLayout(1, scored)
    top = gl.full([64], -float("inf"), gl.float32, row_of)
    weight = gl.zeros([64], gl.float32, row_of)
    total = gl.zeros([64, D], gl.float32, summed)
    mbarrier.wait(ready, 0)
    for block in range(count):
        slot, turn = block % STAGES, block // STAGES
        mbarrier.wait(full.index(slot), turn & 1)
        zeros = gl.zeros([64, BN], gl.float32, scored)
        scores = warpgroup_mma(query, keys.index(slot).permute((1, 0)), zeros, is_async=True)
        scores = warpgroup_mma_wait(0, (scores,)) * scale
        higher = gl.maximum(top, gl.max(scores, 1))
        shares = gl.exp2(scores - higher.expand_dims(1))
        keep = gl.exp2(top - higher)
        weight = weight * keep + gl.sum(shares, 1)
        top = higher
        total *= gl.convert_layout(keep, gl.SliceLayout(1, summed)).expand_dims(1)
        left = gl.convert_layout(shares.to(o.dtype), gl.DotOperandLayout(0, summed, 2))
        total = warpgroup_mma(left, values.index(slot), total, is_async=True)
        total = warpgroup_mma_wait(0, (total,))
        mbarrier.arrive(free.index(slot), count=1)
    total /= gl.convert_layout(weight, gl.SliceLayout(1, summed)).expand_dims(1)
    query.store(total.to(o.dtype))
    fence_async_shared()
    tma.async_copy_shared_to_global(o, [row, 0], query)
    tma.store_wait(0)


@gluon.jit
def _first(o, q, keys, values, ready, full, free, row, count, scale, STAGES: gl.constexpr):
    _attend(o, q.index(0), keys, values, ready, full, free, row, count, scale, STAGES)


@gluon.jit
def _second(o, q, keys, values, ready, full, free, row, count, scale, STAGES: gl.constexpr):
    _attend(o, q.index(1), keys, values, ready, full, free, row + 64, count, scale, STAGES)


@gluon.jit
def attention_of_three_warpgroups(q, k, v, o, count, scale, STAGES: gl.constexpr):
    """o = softmax(q k.T) v, 128 queries by each CTA, `count` blocks of keys."""
    row = gl.program_id(0) * 128
    block: gl.constexpr = k.block_type.shape
    queries = gl.allocate_shared_memory(q.dtype, [2] + q.block_type.shape, q.layout)  # noqa: RUF005 (Gluon has no unpacking)
    keys = gl.allocate_shared_memory(k.dtype, [STAGES] + block, k.layout)  # noqa: RUF005
    values = gl.allocate_shared_memory(v.dtype, [STAGES] + block, v.layout)  # noqa: RUF005
    ready = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    mbarrier.init(ready, count=1)
    for s in gl.static_range(STAGES):
        mbarrier.init(full.index(s), count=1)
        mbarrier.init(free.index(s), count=2)
    fence_async_shared()
    gl.warp_specialize(
        [
            (_first, (o, queries, keys, values, ready, full, free, row, count, scale, STAGES)),
            (_second, (o, queries, keys, values, ready, full, free, row, count, scale, STAGES)),
            (_load, (q, k, v, queries, keys, values, ready, full, free, row, count, STAGES)),
        ],
        [4, 1],
        [232, 40],
    )
