"""Continuous batching over a paged cache: the logits of each sequence alone.

What a serving loop does: requests come and go, prompts are cut into chunks that share a step with
the decodes of others, and pages that one request gives back hold the next one's keys.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

import aimills_kernels as ak

transformers = pytest.importorskip("transformers")

PAGE, PAGES, CHUNK, LAYERS, KV_HEADS, DIM = 4, 26, 6, 2, 2, 16


@dataclass
class Request:
    prompt: list[int]
    arrives: int  # at which step
    new: int  # tokens to generate
    pages: list[int] = field(default_factory=list)
    made: list[int] = field(default_factory=list)
    logits: list[Tensor] = field(default_factory=list)  # that `made` are the largest of
    held: int = 0  # keys in the cache

    def next_tokens(self) -> list[int]:
        known = [*self.prompt, *self.made]
        return known[self.held : self.held + CHUNK]

    @property
    def done(self) -> bool:
        return len(self.made) == self.new


class Engine:
    """A paged cache for each layer, and the attention of a step over it."""

    def __init__(self) -> None:
        shape = (PAGES, PAGE, KV_HEADS, DIM)
        self.caches = [[torch.full(shape, torch.nan) for _ in "kv"] for _ in range(LAYERS)]
        self.free = list(range(PAGES))
        self.table = self.before = self.cu = torch.empty(0)

    def attend(
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **given: Any
    ) -> tuple[Tensor, None]:
        q, k, v = (t[0].transpose(0, 1) for t in (query, key, value))
        caches = self.caches[module.layer_idx]
        ak.kv_append(k, v, *caches, self.table, self.before, cu_seqlens=self.cu)
        after = self.before + self.cu.diff()
        out = ak.attention_paged(
            q, *caches, self.table, after, cu_seqlens_q=self.cu, causal=True, scale=given["scaling"]
        )
        return out[None], None

    def step(self, model: Any, running: list[Request]) -> None:
        """One pass of the model over the next tokens of all requests."""
        parts = [r.next_tokens() for r in running]
        for r, part in zip(running, parts, strict=True):
            while len(r.pages) * PAGE < r.held + len(part):
                r.pages.append(self.free.pop())
        longest = max(len(r.pages) for r in running)
        table = [r.pages + [-1] * (longest - len(r.pages)) for r in running]
        self.table = torch.tensor(table, dtype=torch.int32)
        self.before = torch.tensor([r.held for r in running], dtype=torch.int32)
        ends = list(itertools.accumulate(len(p) for p in parts))
        self.cu = torch.tensor([0, *ends], dtype=torch.int32)
        positions = [
            i for r, p in zip(running, parts, strict=True) for i in range(r.held, r.held + len(p))
        ]
        logits = model(
            torch.tensor([[*itertools.chain(*parts)]]), position_ids=torch.tensor([positions]),
            use_cache=False,
        ).logits[0]  # fmt: skip
        for r, part, end in zip(running, parts, ends, strict=True):
            r.held += len(part)
            if r.held == len(r.prompt) + len(r.made):
                r.logits.append(logits[end - 1])
                r.made.append(int(logits[end - 1].argmax()))
            if r.done:
                self.free += r.pages
                r.pages = []


def _model(implementation: str) -> Any:
    config = transformers.LlamaConfig(
        vocab_size=211, hidden_size=64, intermediate_size=96, num_hidden_layers=LAYERS,
        num_attention_heads=4, num_key_value_heads=KV_HEADS, head_dim=DIM,
        attn_implementation=implementation, initializer_range=0.3,
    )  # fmt: skip
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(config).eval()


def test_the_logits_are_those_of_each_sequence_alone(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    prompts = [torch.randint(211, (n,), generator=draw).tolist() for n in (17, 3, 30, 1, 9, 22, 5)]
    arrivals, lengths = (0, 0, 2, 5, 12, 13, 15), (12, 20, 6, 15, 9, 10, 4)
    requests = [Request(*each) for each in zip(prompts, arrivals, lengths, strict=True)]
    engine = Engine()
    transformers.AttentionInterface.register("paged_engine", engine.attend)
    served, eager = _model("paged_engine"), _model("eager")
    most = 0
    with torch.no_grad():
        for step in itertools.count():
            running = [r for r in requests if r.arrives <= step and not r.done]
            if not running and all(r.done for r in requests):
                break
            if running:
                most = max(most, len(running))
                engine.step(served, running)
        wanted = [
            eager(torch.tensor([[*r.prompt, *r.made]])).logits[0, len(r.prompt) - 1 : -1]
            for r in requests
        ]
    for r, logits in zip(requests, wanted, strict=True):
        assert len(r.made) == r.new
        # Two tokens may be as good as each other but for rounding, so tokens are not compared.
        # Logits, of which the standard deviation is 2.5, are off by up to 3e-5 here.
        torch.testing.assert_close(torch.stack(r.logits), logits, rtol=0, atol=1e-3)
    assert most >= 4, "hardly anything ran side by side"
    assert sorted(engine.free) == list(range(PAGES))
    assert sum(-(-(len(r.prompt) + r.new - 1) // PAGE) for r in requests) > PAGES, "none was reused"
