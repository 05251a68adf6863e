"""The matmuls of a model, as its configuration implies them, and all its other weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

from aimills_kernels.harness.models import Decoder, Model, VideoTransformer, VisionTower

_GROUPED = "the experts' grouped matmul"


@dataclass(frozen=True)
class Dim:
    """`units` of `size`; `cut`: divided among GPUs, and repeated where `repeat` allows it."""

    units: int
    size: int = 1
    cut: bool = False
    repeat: bool = False

    @property
    def full(self) -> int:
        return self.units * self.size

    def on(self, tp: int, model: str, name: str) -> int:
        """Of it on one GPU."""
        if not self.cut or tp == 1:
            return self.full
        if self.repeat and tp > self.units and tp % self.units == 0:
            return self.size
        if self.units % tp:
            raise ValueError(f"--tp {tp} does not divide the {self.units} {name} of {model}")
        return self.units // tp * self.size


@dataclass(frozen=True)
class Linear:
    """A weight [n, k] in each of `layers` layers. `copies` of it are held and a token meets
    `active` of them (experts); `gap` says why no op takes it."""

    name: str
    n: tuple[Dim, ...]
    k: Dim
    layers: int
    rows: str = "tokens"  # of what there are as many as rows go through it
    bias: bool = False
    copies: int = 1
    active: int = 1
    gap: str = ""

    def weights(self, copies: int) -> int:
        n = sum(d.full for d in self.n)
        return self.layers * copies * (n * self.k.full + n * self.bias)


def parameters(model: Model) -> int:
    """All weights that the configuration implies."""
    return sum(w.weights(w.copies) for w in linears(model)) + _others(model)


def active(model: Model) -> int:
    """Those of all matmuls that one token of a language model goes through."""
    return sum(w.weights(w.active) for w in of_decoder(model.decoder)) if model.decoder else 0


def linears(model: Model) -> list[Linear]:
    found: list[Linear] = []
    if model.vision:
        found += of_vision(model.vision)
    if model.decoder:
        found += of_decoder(model.decoder)
    if model.video:
        found += of_video(model.video)
    return found


def _others(model: Model) -> int:
    """Embeddings, norms, sinks and the like: weights of no matmul."""
    total = 0
    if c := model.decoder:
        layer = 2 * c.hidden_size + c.sinks * c.num_attention_heads
        layer += 2 * c.head_dim * c.qk_norm
        if c.latent:
            layer += c.latent.q_lora_rank + c.latent.kv_lora_rank
        total += c.vocab_size * c.hidden_size + c.hidden_size + c.num_hidden_layers * layer
        if c.experts and c.experts.correction_bias:
            moe_layers = c.num_hidden_layers - c.experts.first_k_dense_replace
            total += moe_layers * c.experts.num_experts
    if v := model.vision:
        total += (2 * v.depth + 1) * v.hidden_size
    if t := model.video:
        dim = t.num_attention_heads * t.attention_head_dim
        total += t.num_layers * (4 + 2 + 6) * dim + 2 * dim  # norms of q and k, of text; modulation
    return total


def of_decoder(c: Decoder) -> list[Linear]:
    hidden, layers = Dim(c.hidden_size), c.num_hidden_layers
    heads = Dim(c.num_attention_heads, c.head_dim, cut=True)
    kv = Dim(c.num_key_value_heads, c.head_dim, cut=True, repeat=True)
    dense = c.experts.first_k_dense_replace if c.experts else layers
    found = [
        Linear("qkv", (heads, kv, kv), hidden, layers, bias=c.qkv_bias),
        Linear("o", (hidden,), heads, layers, bias=c.o_bias),
    ]
    if c.latent:
        found = _latent(c)
    if dense:
        found += _mlp("", Dim(c.intermediate_size, cut=True), hidden, dense)
    if e := c.experts:
        moe, wide = layers - dense, Dim(e.moe_intermediate_size, cut=True)
        if e.n_shared_experts:
            shared = replace(wide, size=e.n_shared_experts)
            found += _mlp("shared expert ", shared, hidden, moe)
        found.append(
            Linear("router", (Dim(e.num_experts),), hidden, moe, bias=e.bias,
                   gap="the router, in bf16")
        )  # fmt: skip
        found += [
            replace(w, bias=e.bias, copies=e.num_experts, active=e.num_experts_per_tok,
                    gap=f"{_GROUPED}, {w.name}")
            for w in _mlp("", wide, hidden, moe)
        ]  # fmt: skip
    head = Linear("lm_head", (Dim(c.vocab_size, cut=True),), hidden, 1, rows="sequences",
                  gap="lm_head, in bf16")  # fmt: skip
    return [*found, head]


def _latent(c: Decoder) -> list[Linear]:
    """The projections of latent attention; the two that go down are one matmul on every GPU."""
    assert c.latent
    a, layers, hidden = c.latent, c.num_hidden_layers, Dim(c.hidden_size)
    n_heads = c.num_attention_heads
    down = (Dim(a.q_lora_rank), Dim(a.kv_lora_rank + a.qk_rope_head_dim))
    q_up = Dim(n_heads, a.qk_nope_head_dim + a.qk_rope_head_dim, cut=True)
    kv_up = Dim(n_heads, a.qk_nope_head_dim + a.v_head_dim, cut=True)
    return [
        Linear("q_a kv_a", down, hidden, layers),
        Linear("q_b", (q_up,), Dim(a.q_lora_rank), layers),
        Linear("kv_b", (kv_up,), Dim(a.kv_lora_rank), layers),
        Linear("o", (hidden,), Dim(n_heads, a.v_head_dim, cut=True), layers),
    ]


def _mlp(name: str, wide: Dim, hidden: Dim, layers: int, bias: bool = False) -> list[Linear]:
    return [
        Linear(f"{name}gate_up", (wide, wide), hidden, layers, bias=bias),
        Linear(f"{name}down", (hidden,), wide, layers, bias=bias),
    ]


def of_vision(v: VisionTower) -> list[Linear]:
    hidden = Dim(v.hidden_size)
    heads = Dim(v.num_heads, v.hidden_size // v.num_heads, cut=True)
    merged = Dim(v.hidden_size * v.spatial_merge_size**2)
    patch = v.in_channels * v.temporal_patch_size * v.patch_size**2
    found = [
        Linear("qkv", (heads,) * 3, hidden, v.depth, bias=True),
        Linear("proj", (hidden,), heads, v.depth, bias=True),
        *_mlp("", Dim(v.intermediate_size, cut=True), hidden, v.depth, bias=True),
    ]
    ends = [
        Linear("patch_embed", (hidden,), Dim(patch), 1, gap="patch embedding, in bf16"),
        Linear("merger fc1", (replace(merged, cut=True),), merged, 1, "merged", bias=True),
        Linear("merger fc2", (Dim(v.out_hidden_size),), replace(merged, cut=True), 1, "merged",
               bias=True),
    ]  # fmt: skip
    return (
        [replace(w, rows="patches") for w in found] + [replace(ends[0], rows="patches")] + ends[1:]
    )


def of_video(t: VideoTransformer) -> list[Linear]:
    dim = t.num_attention_heads * t.attention_head_dim
    hidden, layers = Dim(dim), t.num_layers
    heads = Dim(t.num_attention_heads, t.attention_head_dim, cut=True)
    wide = Dim(t.ffn_dim, cut=True)
    inside = [
        Linear("qkv", (heads,) * 3, hidden, layers),
        Linear("o", (hidden,), heads, layers),
        Linear("cross q", (heads,), hidden, layers),
        Linear("cross kv", (heads,) * 2, hidden, layers, "text"),
        Linear("cross o", (hidden,), heads, layers),
        Linear("ffn up", (wide,), hidden, layers),
        Linear("ffn down", (hidden,), wide, layers),
    ]
    patch = prod(t.patch_size)
    ends = [
        Linear("patch_embedding", (hidden,), Dim(t.in_channels * patch), 1),
        Linear("text_embedding 1", (hidden,), Dim(t.text_dim), 1, "text"),
        Linear("text_embedding 2", (hidden,), hidden, 1, "text"),
        Linear("time_embedding 1", (hidden,), Dim(t.freq_dim), 1, "sequences"),
        Linear("time_embedding 2", (hidden,), hidden, 1, "sequences"),
        Linear("time_projection", (hidden,) * 6, hidden, 1, "sequences"),
        Linear("head", (Dim(t.out_channels * patch),), hidden, 1),
    ]
    ends = [replace(w, gap=f"{w.name}, in bf16") for w in ends]
    return [replace(w, bias=True) for w in (*inside, *ends)]
