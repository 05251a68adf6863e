"""A cache of keys and values in pages: what the ops on it share, checks and made-up caches."""

from __future__ import annotations

import torch
from torch import Tensor

from aimills_kernels._op import Case, address_range, describe
from aimills_kernels.kernels.attention.checks import DTYPES, few

E4M3 = torch.float8_e4m3fn
NOWHERE = 2_147_480_000  # what a page table holds where nothing may be read


def check_cache(op: str, k_cache: Tensor, v_cache: Tensor, dtype: torch.dtype, of: str) -> None:
    """Dims and dtypes of the caches, for tensors of `dtype` in the argument `of`."""
    for name, t in (("k_cache", k_cache), ("v_cache", v_cache)):
        if t.dim() != 4:
            raise ValueError(
                f"{op}: {name} must be [pages, page_size, heads, dim], got {describe(t)}"
            )
        if t.dtype not in (*DTYPES.values(), E4M3):
            raise ValueError(f"{op}: {name} must be f16, bf16, f32 or e4m3, got {describe(t)}")
        if t.dtype == E4M3 and dtype == torch.float32:
            raise ValueError(f"{op}: {name} of e4m3 needs f16 or bf16 in {of}, got float32")
        if t.dtype not in (dtype, E4M3):
            raise ValueError(
                f"{op}: {name} must have the dtype of {of} or be float8_e4m3fn, got {describe(t)}"
            )
    if v_cache.dtype != k_cache.dtype:
        raise ValueError(f"{op}: v_cache must have the dtype of k_cache, got {describe(v_cache)}")
    if v_cache.shape[:3] != k_cache.shape[:3]:
        raise ValueError(
            f"{op}: v_cache must have the pages, page size and heads of k_cache, "
            f"{list(k_cache.shape[:3])}, got {describe(v_cache)}"
        )
    if k_cache.shape[1] < 1:
        raise ValueError(f"{op}: k_cache must have pages of at least one key, got 0")


def check_table(op: str, k_cache: Tensor, page_table: Tensor, cache_seqlens: Tensor) -> None:
    if page_table.dim() != 2 or page_table.dtype != torch.int32:
        raise ValueError(
            f"{op}: page_table must be int32 [batch, max_pages], got {describe(page_table)}"
        )
    if page_table.shape[1] * k_cache.shape[1] >= 2**31:
        raise ValueError(
            f"{op}: page_table must list fewer than 2^31 keys a sequence, got "
            f"{page_table.shape[1]} pages of {k_cache.shape[1]}"
        )
    B = page_table.shape[0]
    if tuple(cache_seqlens.shape) != (B,) or cache_seqlens.dtype != torch.int32:
        raise ValueError(f"{op}: cache_seqlens must be int32 [{B}], got {describe(cache_seqlens)}")


def check_cu(op: str, name: str, cu_seqlens: Tensor, B: int) -> None:
    if tuple(cu_seqlens.shape) != (B + 1,) or cu_seqlens.dtype != torch.int32:
        raise ValueError(f"{op}: {name} must be int32 [{B + 1}], got {describe(cu_seqlens)}")


def check_scale(op: str, name: str, scale: Tensor | None, cache: Tensor) -> None:
    if scale is None:
        return
    G = cache.shape[2]
    if cache.dtype != E4M3:
        raise ValueError(f"{op}: {name} goes with caches of float8_e4m3fn, got {describe(cache)}")
    if tuple(scale.shape) not in ((), (G,)) or scale.dtype != torch.float32:
        raise ValueError(f"{op}: {name} must be float32 [] or [{G}], got {describe(scale)}")


def check_scale_values(op: str, name: str, scale: Tensor | None, cache: Tensor) -> None:
    if scale is None or not cache.shape[2]:
        return
    if not bool(((scale > 0) & scale.isfinite()).all()):
        raise ValueError(f"{op}: {name} must be positive and finite")


def check_lengths(
    op: str, what: str, lengths: Tensor, first: Tensor, page_table: Tensor, cache: Tensor
) -> None:
    """Values: lengths within what the table lists, and in range each page from the one of key
    `first` to that of the last."""
    (pages, size), listed = cache.shape[:2], page_table.shape[1]
    if lengths.numel() == 0:
        return
    low, high = (int(x) for x in lengths.aminmax())
    if low < 0 or high > listed * size:
        raise ValueError(
            f"{op}: {what} must be 0 to {listed * size}, the keys that page_table lists, "
            f"got {few(lengths)}"
        )
    begin = torch.arange(listed, device=lengths.device) * size
    used = (begin < lengths.view(-1, 1)) & (begin + size > first.view(-1, 1))
    wrong = used & (first < lengths).view(-1, 1) & ((page_table < 0) | (page_table >= pages))
    if bool(wrong.any()):
        b, p = (int(x) for x in wrong.nonzero()[0])
        raise ValueError(
            f"{op}: page_table must name pages from 0 to {pages - 1}, "
            f"got {int(page_table[b, p])} at [{b}, {p}]"
        )


def share_memory(k_cache: Tensor, v_cache: Tensor) -> bool:
    """Whether an element of one cache is also one of the other, of the same dtype. Neither may
    overlap itself. Views of other strides than each other's are taken to lie between each other
    where their addresses meet."""
    (begin, end), (v_begin, v_end) = address_range(k_cache), address_range(v_cache)
    if not k_cache.numel() or not v_cache.numel() or begin >= v_end or v_begin >= end:
        return False
    gap, odd = divmod(v_begin - begin, k_cache.element_size())
    sizes = zip(k_cache.shape, v_cache.shape, k_cache.stride(), v_cache.stride(), strict=True)
    dims = [(s, v_s, n, v_n) for n, v_n, s, v_s in sizes if max(n, v_n) > 1]
    if odd or any(s != v_s for s, v_s, _, _ in dims):
        return False
    return _meet(gap, sorted(((s, n, v_n) for s, _, n, v_n in dims), reverse=True))


def _meet(gap: int, dims: list[tuple[int, int, int]]) -> bool:
    """Whether sum((i - j) * stride) is `gap` for some i < n and j < v_n of each (stride, n, v_n).
    Each stride passes the reach of all smaller ones, so that two quotients are possible."""
    if not dims:
        return gap == 0
    (stride, n, v_n), *rest = dims
    return any(
        -v_n < steps < n and _meet(gap - steps * stride, rest)
        for steps in (gap // stride, gap // stride + 1)
    )


class PageMap:
    """Pages for keys `first` to `lens` of each sequence, in random order out of a pool with `spare`
    pages more."""

    def __init__(
        self, size: int, listed: int, first: list[int], lens: tuple[int, ...], spare: int,
        generator: torch.Generator,
    ):  # fmt: skip
        place = generator.device
        rows: list[int] = []
        columns: list[int] = []
        self.begin: list[int] = []  # of each sequence's pages among all in use
        self.first, self.lens, self.size = first, lens, size
        for b, (low, n) in enumerate(zip(first, lens, strict=True)):
            self.begin.append(len(rows) - low // size)
            used = range(low // size, -(-n // size)) if n > low else range(0)
            rows += [b] * len(used)
            columns += used
        self.pages = len(rows) + spare
        self.order = torch.randn(self.pages, generator=generator, device=place).argsort()
        self.table = torch.full((len(lens), listed), NOWHERE, dtype=torch.int32, device=place)
        at = [torch.tensor(x, dtype=torch.int64, device=place) for x in (rows, columns)]
        self.table[at[0], at[1]] = self.order[: len(rows)].to(torch.int32)

    def filled(self, keys: Tensor) -> Tensor:
        """A cache of [B, N, G, D] keys; NaN where there is none."""
        cache = keys.new_full((self.pages * self.size, *keys.shape[2:]), float("nan"))
        for b, (low, n) in enumerate(zip(self.first, self.lens, strict=True)):
            if n > low:
                j = torch.arange(low, n, device=keys.device)
                cache[self.order[self.begin[b] + j // self.size] * self.size + j % self.size] = (
                    keys[b, low:n]
                )
        return cache.unflatten(0, (self.pages, self.size))


def lay_out(case: Case, k_cache: Tensor, v_cache: Tensor) -> tuple[Tensor, Tensor]:
    """`heads_first`: pages of [heads, keys, dim], the dim strided; `packed`: keys and values of a
    page next to each other, at an odd offset; `sparse`: pages so far apart that offsets pass 2^31
    elements."""
    layout = case.one_of("layout", "contiguous", "packed", "heads_first", "sparse")
    pages, size, G, D = k_cache.shape
    if layout == "packed":
        flat = k_cache.new_empty(pages * size * G * (D + v_cache.shape[3]) + 3)[3:]
        both = flat.view(pages, size, G, D + v_cache.shape[3]).split([D, v_cache.shape[3]], 3)
        return _copied(both[0], k_cache), _copied(both[1], v_cache)
    if layout == "heads_first":
        k_cache, v_cache = (
            _copied(t.new_empty(pages, G, size, 2 * t.shape[3])[..., ::2].transpose(1, 2), t)
            for t in (k_cache, v_cache)
        )
    if layout == "sparse":
        step = 2**31 // (pages - 1) + 64
        k_cache, v_cache = (
            _copied(t.new_empty(step * pages).as_strided(t.shape, (step, *t.stride()[1:])), t)
            for t in (k_cache, v_cache)
        )
    return k_cache, v_cache


def _copied(into: Tensor, source: Tensor) -> Tensor:
    return into.copy_(source)
