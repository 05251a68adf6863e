"""Real models by name: what their published configurations say, and how many weights follow.

Fields carry the names of the configuration's keys. Nothing else is stated about a model: its
weights and the calls of a forward pass follow from them (`_layers`), and a test holds the weights
that follow against the published number.
"""

from __future__ import annotations

from dataclasses import dataclass

from aimills_kernels._words import near, shown


@dataclass(frozen=True, kw_only=True)
class Latent:
    """Multi-head latent attention: low-rank queries, keys and values."""

    q_lora_rank: int
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int


@dataclass(frozen=True, kw_only=True)
class Experts:
    """A mixture of experts in all layers but the first `first_k_dense_replace`."""

    num_experts: int
    num_experts_per_tok: int
    moe_intermediate_size: int
    n_shared_experts: int = 0
    first_k_dense_replace: int = 0
    correction_bias: bool = False  # one number an expert, added to the router's scores
    bias: bool = False  # of the router and of every expert


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """A language model. Embedding and output are two matrices (`tie_word_embeddings` is false)."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    qk_norm: bool = False
    qkv_bias: bool = False
    o_bias: bool = False
    sinks: bool = False  # one number a head
    sliding_window: int | None = None  # in every other layer
    latent: Latent | None = None
    experts: Experts | None = None


@dataclass(frozen=True, kw_only=True)
class VisionTower:
    """Qwen2.5-VL's: windowed attention but for a few layers, and a merger of 2 x 2 patches."""

    depth: int
    hidden_size: int
    num_heads: int
    intermediate_size: int
    out_hidden_size: int
    fullatt_blocks: int
    patch_size: int = 14
    temporal_patch_size: int = 2
    spatial_merge_size: int = 2
    window_size: int = 112
    in_channels: int = 3


@dataclass(frozen=True, kw_only=True)
class VideoTransformer:
    """Wan's: attention over all tokens of a video, then over those of the text."""

    num_attention_heads: int
    attention_head_dim: int
    ffn_dim: int
    num_layers: int
    text_dim: int
    freq_dim: int
    in_channels: int
    out_channels: int
    patch_size: tuple[int, int, int]
    text_len: int  # of the model's own pipeline
    video_tokens: int


@dataclass(frozen=True)
class Model:
    """`parameters` is the published number, `active` that of the weights which one token meets."""

    name: str
    source: str
    parameters: str
    decoder: Decoder | None = None
    vision: VisionTower | None = None
    video: VideoTransformer | None = None
    active: str | None = None

    @property
    def phases(self) -> tuple[str, ...]:
        """The kinds of forward pass that it has."""
        vision = ("vision",) if self.vision else ()
        decoder = ("prefill", "decode") if self.decoder else ()
        return (*vision, *decoder, *(("denoise",) if self.video else ()))


def _config(repository: str) -> str:
    return f"config.json of {repository} on the Hugging Face Hub"


MODELS: tuple[Model, ...] = (
    Model(
        "llama3-8b",
        _config("meta-llama/Meta-Llama-3-8B"),
        "8.03B",
        decoder=Decoder(
            hidden_size=4096,
            intermediate_size=14336,
            num_hidden_layers=32,
            num_attention_heads=32,
            num_key_value_heads=8,
            head_dim=128,
            vocab_size=128256,
        ),
    ),
    Model(
        "llama3-70b",
        _config("meta-llama/Meta-Llama-3-70B"),
        "70.6B",
        decoder=Decoder(
            hidden_size=8192,
            intermediate_size=28672,
            num_hidden_layers=80,
            num_attention_heads=64,
            num_key_value_heads=8,
            head_dim=128,
            vocab_size=128256,
        ),
    ),
    Model(
        "qwen3-8b",
        _config("Qwen/Qwen3-8B"),
        "8.2B",
        decoder=Decoder(
            hidden_size=4096,
            intermediate_size=12288,
            num_hidden_layers=36,
            num_attention_heads=32,
            num_key_value_heads=8,
            head_dim=128,
            vocab_size=151936,
            qk_norm=True,
        ),
    ),
    Model(
        "qwen3-32b",
        _config("Qwen/Qwen3-32B"),
        "32.8B",
        decoder=Decoder(
            hidden_size=5120,
            intermediate_size=25600,
            num_hidden_layers=64,
            num_attention_heads=64,
            num_key_value_heads=8,
            head_dim=128,
            vocab_size=151936,
            qk_norm=True,
        ),
    ),
    Model(
        "qwen3-30b-a3b",
        _config("Qwen/Qwen3-30B-A3B"),
        "30.5B",
        active="3.3B",
        decoder=Decoder(
            hidden_size=2048,
            intermediate_size=6144,
            num_hidden_layers=48,
            num_attention_heads=32,
            num_key_value_heads=4,
            head_dim=128,
            vocab_size=151936,
            qk_norm=True,
            experts=Experts(num_experts=128, num_experts_per_tok=8, moe_intermediate_size=768),
        ),
    ),
    Model(
        "qwen3-235b-a22b",
        _config("Qwen/Qwen3-235B-A22B"),
        "235B",
        active="22B",
        decoder=Decoder(
            hidden_size=4096,
            intermediate_size=12288,
            num_hidden_layers=94,
            num_attention_heads=64,
            num_key_value_heads=4,
            head_dim=128,
            vocab_size=151936,
            qk_norm=True,
            experts=Experts(num_experts=128, num_experts_per_tok=8, moe_intermediate_size=1536),
        ),
    ),
    Model(
        "deepseek-v3",
        _config("deepseek-ai/DeepSeek-V3"),
        "671B",
        active="37B",
        decoder=Decoder(
            hidden_size=7168,
            intermediate_size=18432,
            num_hidden_layers=61,
            num_attention_heads=128,
            num_key_value_heads=128,
            head_dim=192,
            vocab_size=129280,
            latent=Latent(
                q_lora_rank=1536,
                kv_lora_rank=512,
                qk_nope_head_dim=128,
                qk_rope_head_dim=64,
                v_head_dim=128,
            ),
            experts=Experts(
                num_experts=256,
                num_experts_per_tok=8,
                moe_intermediate_size=2048,
                n_shared_experts=1,
                first_k_dense_replace=3,
                correction_bias=True,
            ),
        ),
    ),
    Model(
        "gpt-oss-20b",
        _config("openai/gpt-oss-20b"),
        "20.9B",
        active="3.6B",
        decoder=Decoder(
            hidden_size=2880,
            intermediate_size=2880,
            num_hidden_layers=24,
            num_attention_heads=64,
            num_key_value_heads=8,
            head_dim=64,
            vocab_size=201088,
            qkv_bias=True,
            o_bias=True,
            sinks=True,
            sliding_window=128,
            experts=Experts(
                num_experts=32, num_experts_per_tok=4, moe_intermediate_size=2880, bias=True
            ),
        ),
    ),
    Model(
        "gpt-oss-120b",
        _config("openai/gpt-oss-120b"),
        "116.8B",
        active="5.1B",
        decoder=Decoder(
            hidden_size=2880,
            intermediate_size=2880,
            num_hidden_layers=36,
            num_attention_heads=64,
            num_key_value_heads=8,
            head_dim=64,
            vocab_size=201088,
            qkv_bias=True,
            o_bias=True,
            sinks=True,
            sliding_window=128,
            experts=Experts(
                num_experts=128, num_experts_per_tok=4, moe_intermediate_size=2880, bias=True
            ),
        ),
    ),
    Model(
        "qwen2.5-vl-7b",
        _config("Qwen/Qwen2.5-VL-7B-Instruct"),
        "8.29B",
        decoder=Decoder(
            hidden_size=3584,
            intermediate_size=18944,
            num_hidden_layers=28,
            num_attention_heads=28,
            num_key_value_heads=4,
            head_dim=128,
            vocab_size=152064,
            qkv_bias=True,
        ),
        vision=VisionTower(
            depth=32,
            hidden_size=1280,
            num_heads=16,
            intermediate_size=3420,
            out_hidden_size=3584,
            fullatt_blocks=4,
        ),
    ),
    Model(
        "wan2.1-t2v-14b",
        _config("Wan-AI/Wan2.1-T2V-14B-Diffusers") + " (transformer)",
        "14.3B",
        # 81 frames of 1280 x 720 are latents of 21 x 90 x 160, and patches of 1 x 2 x 2 of those.
        video=VideoTransformer(
            num_attention_heads=40,
            attention_head_dim=128,
            ffn_dim=13824,
            num_layers=40,
            text_dim=4096,
            freq_dim=256,
            in_channels=16,
            out_channels=16,
            patch_size=(1, 2, 2),
            text_len=512,
            video_tokens=21 * 45 * 80,
        ),
    ),
)


def get_model(name: str) -> Model:
    for model in MODELS:
        if model.name == name:
            return model
    known = near(name, (m.name for m in MODELS), "aimills-kernels bench --list-models")
    raise ValueError(f"unknown model {shown(name)}; {known}")
