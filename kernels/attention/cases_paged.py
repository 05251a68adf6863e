"""Cases and bad calls of `attention_paged`."""

from __future__ import annotations

from typing import Any

import torch

from aimills_kernels._op import Case, Invalid
from aimills_kernels.kernels.attention.op import edit

_I = {"interpret"}
_LLAMA: dict[str, Any] = dict(H=32, G=8, D=128, causal=True)  # one layer of Llama-3 8B
_SMALL: dict[str, Any] = dict(H=8, G=2)
_RAGGED = (8192, 511, 1, 3001, 16000, 64, 1267, 4096)

CASES = (
    Case("tiny", n=(11, 5), M=1, page=4, H=2, G=1, D=16, dtype="f32", lse=True, tags=_I),
    Case("tiny-f16", n=(11, 20), M=3, page=16, H=4, G=2, D=16, dtype="f16", causal=True, tags=_I),
    Case("tiny-e4m3", n=(20, 7), M=2, page=8, H=4, G=2, D=16, cache="e4m3", scales="head",
         causal=True, lse=True, tags=_I),
    Case("ragged", n=(250, 0, 1, 129), M=1, page=16, H=7, G=1, D=64, causal=True, lse=True,
         tags=_I),
    Case("ragged-packed", q_lens=(1, 7, 0, 20, 5), n=(9, 7, 40, 70, 0), page=3, H=6, G=2,
         D=64, causal=True, lse=True, tags=_I),
    Case("page-1", n=(70, 33), M=2, page=1, H=4, G=2, D=32, causal=True, tags=_I),
    Case("page-3", n=(70, 41), M=2, page=3, H=3, G=3, D=40, Dv=24, dtype="f16", causal=True,
         tags=_I),
    Case("page-64", n=(200, 64, 65), M=1, page=64, H=8, G=2, D=128, causal=True, tags=_I),
    Case("page-256", n=(200, 256), M=1, page=256, H=4, G=1, D=64, dtype="f16", lse=True, tags=_I),
    Case("chunk", n=(90, 200), M=40, page=16, H=4, G=2, D=64, causal=True, lse=True, tags=_I),
    Case("split", n=(520, 40), M=1, page=64, H=2, G=1, D=64, causal=True, lse=True, tags=_I),
    Case("split-packed", q_lens=(1, 2, 0), n=(400, 270, 30), page=16, H=2, G=1, D=32,
         tail=1, causal=True, lse=True, tags=_I),
    Case("split-window", n=(900, 600), M=2, page=32, H=2, G=1, D=32, window=(500, -1),
         causal=True, lse=True, tags=_I),
    Case("split-sinks", n=(300, 520), M=1, page=64, H=2, G=1, D=32, sinks="f32", alibi="batch",
         softcap=20.0, causal=True, lse=True, tags=_I),
    Case("capacity", n=(40, 3), M=1, page=16, capacity=2048, H=2, G=1, D=32, causal=True, tags=_I),
    Case("fp8", n=(140, 77), M=1, page=16, H=8, G=2, D=64, cache="e4m3", scales="head",
         causal=True, lse=True, tags=_I),
    Case("fp8-f16", n=(200, 20), M=1, page=64, H=4, G=1, D=72, Dv=40, dtype="f16", cache="e4m3",
         scales="tensor", sinks="q", softcap=15.0, causal=True, lse=True, tags=_I),
    Case("fp8-chunk", q_lens=(30, 9), n=(50, 100), page=5, H=4, G=2, D=64, cache="e4m3",
         causal=True, tags=_I),
    Case("window", n=(150, 250), M=20, page=16, H=4, G=2, D=64, window=(60, 3), lse=True, tags=_I),
    Case("window-freed", n=(300, 90), M=1, page=16, H=8, G=1, D=64, window=(100, 0), sinks="f32",
         causal=True, tags=_I),
    Case("no-keys", n=(3, 30), M=20, page=8, H=2, G=1, D=32, causal=True, lse=True, sinks="none",
         dtype="f32", tags=_I),
    Case("batch-empty", n=(), M=1, page=16, H=4, G=2, D=64, tags=_I),
    Case("queries-empty", n=(20, 30), M=0, page=16, H=4, G=2, D=64, lse=True, tags=_I),
    Case("keys-empty", n=(0, 0), M=3, page=16, spare=0, H=4, G=2, D=64, lse=True, tags=_I),
    Case("nothing", q_lens=(0, 0), n=(7, 0), page=16, H=2, G=1, D=16, alibi="head", lse=True,
         tags=_I),
    Case("tail", q_lens=(2, 5), n=(20, 70), page=16, H=2, G=2, D=32, tail=40, causal=True,
         lse=True, sinks="f32", tags=_I),
    Case("packed-cache", n=(80, 50), M=2, page=16, H=4, G=2, D=64, layout="packed", causal=True,
         tags=_I),
    Case("heads-first", n=(80, 50), M=4, page=16, H=4, G=2, D=32, layout="heads_first",
         q_strided=True, causal=True, lse=True, tags=_I),
    Case("sparse", n=(9, 5), M=2, page=4, H=2, G=1, D=16, dtype="f16", layout="sparse", tags=_I),
    Case("onehot", n=(250, 250), M=40, page=16, H=2, G=1, D=64, fill="onehot", lse=True, tags=_I),
    Case("onehot-split", n=(1024,), M=1, page=32, H=2, G=1, D=64, fill="onehot", tags=_I),
    Case("magnitudes", n=(100, 64), M=30, page=16, H=2, G=2, D=64, fill="magnitudes", lse=True,
         tags=_I),
    Case("dim-256", n=(70, 20), M=3, page=16, H=4, G=2, D=256, causal=True, tags=_I),
    Case("everything", q_lens=(5, 0, 2, 1), n=(60, 9, 100, 90), page=6, H=6, G=2, D=72, Dv=40,
         cache="e4m3", scales="head", sinks="q", alibi="batch", causal=True, window=(30, -1),
         softcap=30.0, tail=2, lse=True, tags=_I),
    Case("invariant", n=(11, 20), M=3, page=16, H=4, G=2, D=16, dtype="f16", causal=True,
         lse=True, invariant=True, tags=_I),
    Case("invariant-ragged", q_lens=(1, 20, 0, 9), n=(70, 40, 30, 9), page=16, H=3, G=1, D=32,
         causal=True, sinks="q", lse=True, tail=2, invariant=True, tags=_I),
    Case("invariant-split", n=(550, 40), M=1, page=64, H=2, G=1, D=16, dtype="f32", lse=True,
         invariant=True, tags=_I),
    Case("invariant-no-queries", n=(0, 7), M=0, page=4, H=2, G=1, D=16, lse=True, invariant=True,
         tags=_I),
    Case("invariant-everything", q_lens=(5, 0, 2, 1), n=(60, 9, 100, 90), page=6, H=6, G=2, D=72,
         Dv=40, cache="e4m3", scales="head", sinks="q", alibi="batch", causal=True,
         window=(30, -1), softcap=30.0, tail=2, lse=True, invariant=True, tags=_I),
    Case("llama3-8b-decode", n=(8192,) * 32, M=1, page=64, **_LLAMA,
         cpu=dict(n=(256, 100), **_SMALL), tags={"bench", "accept"}),
    Case("llama3-8b-decode-page-16", n=(8192,) * 32, M=1, page=16, **_LLAMA,
         cpu=dict(n=(256, 100), **_SMALL), tags={"bench"}),
    Case("llama3-8b-decode-ragged", n=_RAGGED * 4, M=1, page=64, **_LLAMA,
         cpu=dict(n=(256, 1), **_SMALL), tags={"bench"}),
    Case("llama3-8b-decode-one", n=(32768,), M=1, page=64, **_LLAMA,
         cpu=dict(n=(600,), **_SMALL), tags={"bench"}),
    Case("llama3-70b-decode-one", n=(8192,), M=1, page=64, H=64, G=8, D=128, causal=True,
         cpu=dict(n=(600,), H=16, G=2), tags={"bench"}),
    Case("llama3-8b-decode-fp8", n=(8192,) * 32, M=1, page=64, cache="e4m3", scales="head",
         **_LLAMA, cpu=dict(n=(256, 100), **_SMALL), tags={"bench", "accept"}),
    Case("llama3-8b-decode-invariant", n=(8192,) * 32, M=1, page=64, invariant=True, **_LLAMA,
         cpu=dict(n=(256, 100), **_SMALL), tags={"bench"}),
    Case("llama3-8b-chunk-invariant", q_lens=(512,) + (1,) * 31, n=(8192,) + (4096,) * 31, page=64,
         invariant=True, **_LLAMA, cpu=dict(q_lens=(40, 1), n=(100, 256), **_SMALL),
         tags={"bench"}),
    Case("llama3-8b-chunk", q_lens=(512,) + (1,) * 31, n=(8192,) + (4096,) * 31, page=64, **_LLAMA,
         cpu=dict(q_lens=(40, 1), n=(100, 256), **_SMALL), tags={"bench", "accept"}),
    Case("aot-decode", n=(2048, 1024), M=1, page=64, **_LLAMA, lse=True,
         cpu=dict(n=(600, 100), **_SMALL), tags={"aot"}),
    Case("aot-decode-page-16", n=(2048, 1024), M=1, page=16, **_LLAMA,
         cpu=dict(n=(600, 100), **_SMALL), tags={"aot"}),
    Case("aot-decode-fp8", n=(2048, 1024), M=1, page=64, cache="e4m3", scales="head", **_LLAMA,
         cpu=dict(n=(600, 100), **_SMALL), tags={"aot"}),
    Case("aot-decode-256", n=(512, 1024), M=1, page=16, H=16, G=8, D=256, dtype="f16", softcap=50.0,
         causal=True, cpu=dict(n=(300, 100)), tags={"aot"}),
    Case("aot-f32", n=(512, 1024), M=1, page=16, H=8, G=2, D=128, dtype="f32", causal=True,
         cpu=dict(n=(300, 100)), tags={"aot"}),
    Case("aot-chunk", q_lens=(512, 1), n=(1024, 2000), page=64, **_LLAMA, lse=True,
         cpu=dict(q_lens=(30, 1), n=(100, 300), **_SMALL), tags={"aot"}),
    Case("aot-chunk-256", q_lens=(200, 1), n=(600, 100), page=16, H=8, G=4, D=256, softcap=50.0,
         causal=True, cpu=dict(q_lens=(20, 1), n=(60, 100)), tags={"aot"}),
    Case("aot-invariant", q_lens=(512, 1), n=(1024, 2000), page=64, **_LLAMA, lse=True,
         invariant=True, cpu=dict(q_lens=(30, 1), n=(100, 300), **_SMALL), tags={"aot"}),
    Case("aot-invariant-decode", n=(2048, 1024), M=1, page=16, **_LLAMA, cache="e4m3",
         scales="head", sinks="f32", invariant=True, cpu=dict(n=(300, 100), **_SMALL),
         tags={"aot"}),
    Case("aot-invariant-256", q_lens=(200, 1), n=(600, 100), page=16, H=8, G=4, D=256,
         softcap=50.0, causal=True, invariant=True, cpu=dict(q_lens=(20, 1), n=(60, 100)),
         tags={"aot", "full"}),
    Case("aot-invariant-256-whole", q_lens=(4000, 1), n=(6000, 100), page=16, H=8, G=4, D=256,
         causal=True, invariant=True, cpu=dict(q_lens=(20, 1), n=(60, 100)), tags={"aot", "full"}),
    Case("aot-invariant-f32", n=(512, 1024), M=1, page=16, H=8, G=2, D=128, dtype="f32",
         causal=True, invariant=True, cpu=dict(n=(300, 100)), tags={"aot", "full"}),
    Case("aot-everything", q_lens=(300, 7), n=(1001, 700), page=6, H=8, G=2, D=128, cache="e4m3",
         scales="head", sinks="q", alibi="batch", causal=True, window=(300, -1), softcap=30.0,
         lse=True, tail=3, cpu=dict(q_lens=(65, 7), n=(90, 40)), tags={"aot"}),
)  # fmt: skip


def _ints(*values: int, dtype: torch.dtype = torch.int32) -> Any:
    return lambda a: torch.tensor(values, dtype=dtype)


def _entry(row: int, column: int, page: int) -> Any:
    """The page table with one entry changed."""

    def changed(a: dict[str, Any]) -> torch.Tensor:
        table = a["page_table"].clone()
        table[row, column] = page
        return table

    return changed


def _half(*names: str) -> Any:
    return edit(**{name: lambda a, name=name: a[name].half() for name in names})


_FP8 = "tiny-e4m3"
_PACKED = "ragged-packed"

ERRORS = (
    Invalid("q has three dims", edit(q=lambda a: a["q"][0]), "q must be \\[batch, seq"),
    Invalid("packed q has four dims", edit(q=lambda a: a["q"][None]), "q must be \\[tokens",
            base=_PACKED),
    Invalid("q is float64", edit(q=lambda a: a["q"].double()), "q must be f16, bf16 or f32"),
    Invalid("cache of another dtype", _half("k_cache", "v_cache"),
            "k_cache must have the dtype of q or be float8_e4m3fn"),
    Invalid("caches of two dtypes", edit(v_cache=lambda a: a["v_cache"].to(a["q"].dtype)),
            "v_cache must have the dtype of k_cache", base=_FP8),
    Invalid("e4m3 with f32 queries", edit(q=lambda a: a["q"].float()),
            "k_cache of e4m3 needs f16 or bf16", base=_FP8),
    Invalid("cache has three dims", edit(k_cache=lambda a: a["k_cache"][0]),
            "k_cache must be \\[pages"),
    Invalid("v has fewer pages", edit(v_cache=lambda a: a["v_cache"][1:]),
            "v_cache must have the pages"),
    Invalid("pages of no key", edit(k_cache=lambda a: a["k_cache"][:, :0],
                                    v_cache=lambda a: a["v_cache"][:, :0]), "at least one key"),
    Invalid("head dims differ", edit(k_cache=lambda a: a["k_cache"][..., :8]),
            "k_cache must have the head dim of q"),
    Invalid("heads do not divide", edit(
        k_cache=lambda a: a["k_cache"].repeat(1, 1, 3, 1),
        v_cache=lambda a: a["v_cache"].repeat(1, 1, 3, 1),
    ), "multiple of those of k_cache"),
    Invalid("head dim of 257", edit(v_cache=lambda a: a["v_cache"].new_zeros(
        *a["v_cache"].shape[:3], 257)), "1 to 256, got 257"),
    Invalid("table is i64", edit(page_table=lambda a: a["page_table"].long()),
            "page_table must be int32"),
    Invalid("table has one dim", edit(page_table=lambda a: a["page_table"][0]),
            "page_table must be int32"),
    Invalid("table of another batch", edit(page_table=lambda a: a["page_table"][:1],
                                           cache_seqlens=_ints(5)), "must have the batch of q"),
    Invalid("lengths of another batch", edit(cache_seqlens=_ints(5)),
            "cache_seqlens must be int32"),
    Invalid("lengths are i64", edit(cache_seqlens=lambda a: a["cache_seqlens"].long()),
            "cache_seqlens must be int32"),
    Invalid("cu of another batch", edit(cu_seqlens_q=_ints(0, 1)), "cu_seqlens_q must be int32",
            base=_PACKED),
    Invalid("a scale without fp8", edit(k_scale=lambda a: torch.ones(())),
            "k_scale goes with caches of float8_e4m3fn"),
    Invalid("a scale of the query heads", edit(v_scale=lambda a: torch.ones(4)),
            "v_scale must be float32", base=_FP8),
    Invalid("a scale in f16", _half("k_scale"), "k_scale must be float32", base=_FP8),
    Invalid("sinks of the key heads", edit(sinks=lambda a: torch.zeros(1)), "sinks must be"),
    Invalid("slopes of another batch", edit(alibi_slopes=lambda a: torch.zeros(3, 2)),
            "alibi_slopes must be float32"),
    Invalid("window below -1", edit(window_left=lambda a: -2), "left side of window must be -1"),
    Invalid("softcap is negative", edit(softcap=lambda a: -1.0), "softcap must be 0"),
    Invalid("scale is nan", edit(scale=lambda a: float("nan")), "scale must be finite"),
    Invalid("a length beyond the table", edit(cache_seqlens=_ints(13, 5)),
            r"cache_seqlens must be 0 to 12, .* got \[13, 5\]", value=True),
    Invalid("a negative length", edit(cache_seqlens=_ints(4, -1)), "cache_seqlens must be 0 to",
            value=True),
    Invalid("a page out of range", edit(page_table=_entry(0, 2, 7)),
            r"page_table must name pages from 0 to 6, got 7 at \[0, 2\]", value=True),
    Invalid("a negative page", edit(page_table=_entry(1, 0, -1)), r"got -1 at \[1, 0\]",
            value=True),
    Invalid("cu falls", edit(cu_seqlens_q=_ints(0, 1, 8, 6, 28, 33)),
            "cu_seqlens_q must rise", base=_PACKED, value=True),
    Invalid("cu beyond q", edit(cu_seqlens_q=_ints(0, 1, 8, 8, 28, 34)),
            "to at most 33, the tokens there are", base=_PACKED, value=True),
    Invalid("a scale of 0", edit(k_scale=lambda a: torch.zeros(())),
            "k_scale must be positive and finite", base=_FP8, value=True),
    Invalid("a scale that is NaN", edit(v_scale=lambda a: torch.full((), float("nan"))),
            "v_scale must be positive and finite", base=_FP8, value=True),
)  # fmt: skip
