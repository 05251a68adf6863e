"""What the pod is for: a step of training, a loop of decoding, video to a model's tokens."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import aimills_kernels
from aimills_kernels.accept.context import Context
from aimills_kernels.accept.stages._tools import (
    counters,
    is_gpu,
    joules_in,
    option,
    over,
    reason,
    synchronize,
)

Step = Callable[[], Tensor]  # one of the work; its result

_HEAD = 64
_WARM_UP = 2  # calls
_PAGE = 16
_MOMENTUM, _RATE = 0.9, 1e-4


def run(ctx: Context) -> str:
    rates = {}
    works: dict[str, Callable[[Context], tuple[Step, int]]] = {
        "train": training, "decode": decoding, "video": video,
    }  # fmt: skip
    for name, work in works.items():
        try:
            rates[name] = _measured(ctx, name, *work(ctx), ctx.seconds / len(works))
        except (RuntimeError, ValueError, MemoryError) as error:
            ctx.not_run(f"work.{name}", f"work.{name}", reason(error))
    return ", ".join(f"{name} {rate:.4g} tokens/s" for name, rate in rates.items())


def _measured(ctx: Context, name: str, step: Step, tokens: int, seconds: float) -> float:
    for _ in range(_WARM_UP):
        result = step()
    synchronize(ctx.device)
    count = 0
    with counters(ctx).sampling(ctx.journal, ctx.stage, max(0.5, seconds / 60)) as window:
        end = time.monotonic() + seconds
        while not count or not over(ctx, end):
            result = step()
            synchronize(ctx.device)
            count += 1
    wrong = int((~torch.isfinite(result)).sum())
    ctx.measure("work.wrong", wrong, work=name, elements=result.numel())
    rate = count * tokens / window.seconds
    ctx.measure(f"work.{name}", rate, steps=count, tokens=tokens)
    joules = joules_in(ctx, window)
    if isinstance(joules, str):
        ctx.not_run(f"work.{name}_energy", f"work.{name} per joule", joules, gap=False)
    else:
        ctx.measure(f"work.{name}_energy", count * tokens / joules, joules=joules)
    return rate


# ---- training


class Block(nn.Module):
    """A pre-norm layer of a decoder, on the library's attention."""

    def __init__(self, width: int):
        super().__init__()
        self.before, self.between = nn.RMSNorm(width), nn.RMSNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        heads = self.qkv(self.before(x)).view(batch, length, 3, width // _HEAD, _HEAD)
        q, k, v = heads.unbind(2)
        mixed = aimills_kernels.attention(q, k, v, causal=True)
        x = x + self.out(mixed.reshape(batch, length, width))
        return x + self.down(F.gelu(self.up(self.between(x))))


def training(ctx: Context) -> tuple[Step, int]:
    """One step forward, back and of the optimizer, in bf16 on a GPU and f32 on a CPU. The optimizer
    is SGD with momentum: torch.optim takes 10 s to import."""
    gpu = is_gpu(ctx)
    width = option(ctx, "width", 2048 if gpu else 64)
    layers = option(ctx, "layers", 4 if gpu else 2)
    batch = option(ctx, "batch", 4 if gpu else 2)
    length = option(ctx, "length", 2048 if gpu else 64)
    words = 32000 if gpu else 256
    torch.manual_seed(ctx.seed)
    model = nn.Sequential(
        nn.Embedding(words, width), *[Block(width) for _ in range(layers)],
        nn.Linear(width, words, bias=False),
    ).to(ctx.device, torch.bfloat16 if gpu else torch.float32)  # fmt: skip
    weights = list(model.parameters())
    momenta = [torch.zeros_like(w) for w in weights]
    tokens = torch.randint(words, (batch, length + 1), device=ctx.device)

    def step() -> Tensor:
        scores = model(tokens[:, :-1]).float()
        loss = F.cross_entropy(scores.flatten(0, 1), tokens[:, 1:].flatten())
        gradients = torch.autograd.grad(loss, weights)
        with torch.no_grad():
            for weight, momentum, gradient in zip(weights, momenta, gradients, strict=True):
                momentum.mul_(_MOMENTUM).add_(gradient)
                weight.sub_(momentum, alpha=_RATE)
        return loss.detach()

    return step, batch * length


# ---- decoding


class Layer:
    """A layer of a decoder: projections, its paged cache, attention over what is cached, and a
    feed-forward part."""

    def __init__(self, batch: int, pages: int, heads: int, groups: int, width: int, **place: Any):
        self.heads = (heads, groups, groups)
        self.width, size = width, heads * width
        cached = (batch * pages, _PAGE, groups, width)
        self.k_cache, self.v_cache = (torch.randn(cached, **place) for _ in range(2))
        shapes = ((sum(self.heads) * width, size), (size, size), (4 * size, size), (size, 4 * size))
        self.qkv, self.out, self.up, self.down = (
            torch.randn(shape, **place) * shape[1] ** -0.5 for shape in shapes
        )

    def __call__(self, x: Tensor, table: Tensor, before: Tensor, after: Tensor) -> Tensor:
        mixed = F.linear(F.rms_norm(x, x.shape[-1:]), self.qkv)
        heads = mixed.view(x.shape[0], 1, sum(self.heads), self.width)
        q, k, v = heads.split(self.heads, dim=2)
        aimills_kernels.kv_append(k, v, self.k_cache, self.v_cache, table, before)
        seen = aimills_kernels.attention_paged(q, self.k_cache, self.v_cache, table, after)
        x = x + F.linear(seen.reshape(x.shape), self.out)
        return x + F.linear(F.gelu(F.linear(F.rms_norm(x, x.shape[-1:]), self.up)), self.down)


def decoding(ctx: Context) -> tuple[Step, int]:
    """One token for each sequence through all layers. The caches begin half full, and once they are
    full they begin again."""
    gpu = is_gpu(ctx)
    batch = option(ctx, "sequences", 64 if gpu else 2)
    length = option(ctx, "keys", 4096 if gpu else 128)
    layers = option(ctx, "layers", 4 if gpu else 2)
    heads, groups, width = (32, 8, 128) if gpu else (4, 2, 32)
    dtype = torch.bfloat16 if gpu else torch.float32
    pages = -(-length // _PAGE)
    torch.manual_seed(ctx.seed)
    stack = [
        Layer(batch, pages, heads, groups, width, device=ctx.device, dtype=dtype)
        for _ in range(layers)
    ]
    order = torch.randperm(batch * pages, device=ctx.device).to(torch.int32)
    table = order.view(batch, pages)
    before = torch.full((batch,), length // 2, device=ctx.device, dtype=torch.int32)
    x = torch.randn(batch, heads * width, device=ctx.device, dtype=dtype)

    def step() -> Tensor:
        nonlocal x
        after = before + 1
        with torch.no_grad():
            for layer in stack:
                x = layer(x, table, before, after)
            x = F.rms_norm(x, x.shape[-1:])
        before.copy_(torch.where(after >= length, length // 2, after))
        return x

    return step, batch


# ---- video


def video(ctx: Context) -> tuple[Step, int]:
    """1080p NV12 frames to the patches that a model of vision reads."""
    gpu = is_gpu(ctx)
    frames = option(ctx, "frames", 16 if gpu else 2)
    height, width = (1080, 1920) if gpu else (96, 160)
    size = (560, 1008) if gpu else (56, 112)
    generator = torch.Generator().manual_seed(ctx.seed)

    def levels(*shape: int) -> Tensor:
        return torch.randint(16, 236, shape, generator=generator, dtype=torch.uint8).to(ctx.device)

    planes = (levels(frames, height, width), levels(frames, height // 2, width // 2, 2))

    def step() -> Tensor:
        return aimills_kernels.video_to_tensor(
            planes, size=size, layout="patches", patch=(2, 14, 2)
        )

    return step, step().shape[0]
