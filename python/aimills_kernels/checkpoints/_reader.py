"""From a folder to layers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from torch import Tensor

from aimills_kernels._op import describe
from aimills_kernels._words import near, shown
from aimills_kernels.checkpoints import awq, compressed, fp8, gptq
from aimills_kernels.checkpoints._config import Config
from aimills_kernels.checkpoints._errors import CheckpointError
from aimills_kernels.checkpoints._files import Part, Shards, load_json
from aimills_kernels.checkpoints._quantized import Quantized

METHODS: dict[str, Callable[[Config], Scheme]] = {
    "gptq": gptq.parse,
    "awq": awq.parse,
    "compressed-tensors": compressed.parse,
    "fp8": fp8.parse,
}
# Words that no plain layer has, whatever the config says.
_FOREIGN = frozenset({
    "qweight", "qzeros", "weight_packed", "weight_scale", "weight_scale_inv", "weight_zero_point",
    "weight_shape", "weight_g_idx", "weight_global_scale", "weight_scale_2",
})  # fmt: skip
_EXTRA = frozenset({
    "input_scale", "input_zero_point", "output_scale", "output_zero_point", "activation_scale",
    "input_global_scale",
})  # fmt: skip


class Scheme(Protocol):
    """What a `quantization_config` says: how layers are stored, and how one is read."""

    @property
    def title(self) -> str: ...
    @property
    def words(self) -> frozenset[str]: ...
    def read(self, part: Part) -> Quantized | None: ...


class Plain:
    """No quantization_config."""

    title = "plain, config.json has no quantization_config"
    words: frozenset[str] = frozenset()

    def read(self, part: Part) -> None:
        return None


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer of a checkpoint. `extra`: scales and zeros of its activations, as stored."""

    name: str
    weight: Quantized
    extra: Mapping[str, Tensor] = field(default_factory=dict)


class Checkpoint:
    """Layers by name, read when they are asked for.

    A layer is a module that has a weight, with its bias and `extra`; a tensor that belongs to no
    weight is a plain layer by the whole of its key. Iterating goes shard by shard, and holds no
    more than the layer that it gives.
    """

    def __init__(self, shards: Shards, scheme: Scheme):
        self._shards, self._scheme = shards, scheme
        self._words: dict[str, tuple[str, ...]] = {}
        modules: dict[str, list[str]] = {}
        for key in shards.files:
            name, _, word = key.rpartition(".")
            modules.setdefault(name, []).append(word)
        core = scheme.words | _FOREIGN | {"weight"}
        for name, words in modules.items():
            own = core | _EXTRA | {"bias"} if core.intersection(words) else frozenset()
            mine = tuple(word for word in words if word in own)
            if mine:
                self._add(name, mine)
            for word in words:
                if word not in own:
                    self._add(f"{name}.{word}" if name else word, ())

    def _add(self, name: str, words: tuple[str, ...]) -> None:
        if name in self._words:
            raise CheckpointError(self.folder, name, "is a module and a tensor; expected one")
        self._words[name] = words

    @property
    def scheme(self) -> str:
        """In words, as "GPTQ v1, 4 bits, groups of 128"."""
        return self._scheme.title

    @property
    def folder(self) -> Path:
        return self._shards.folder

    def names(self) -> tuple[str, ...]:
        """Of all layers, in the order of the files."""
        return tuple(self._words)

    def files(self, name: str) -> dict[str, Path]:
        """The keys of a layer, and the file that holds each."""
        words = self._words[self._known(name)]
        keys = [f"{name}.{word}" if name else word for word in words] or [name]
        return {key: self._shards.files[key] for key in keys}

    def __len__(self) -> int:
        return len(self._words)

    def __iter__(self) -> Iterator[Layer]:
        return map(self.__getitem__, self._words)

    def __getitem__(self, name: str) -> Layer:
        if not self._words[self._known(name)]:
            return Layer(name, self._alone(name))
        part = Part(name, self._words[name], self._shards)
        weight = self._scheme.read(part)
        if weight is None:
            weight = self._plain(part)
        extra = {word: _extra(part, word) for word in part.words if word in _EXTRA}
        if "bias" in part:
            weight = replace(weight, bias=_bias(part, weight))
        for word in part.words:
            if word not in part.taken:
                raise part.error(word, f"is no part of a {weight.scheme} layer ({self.scheme})")
        return Layer(name, weight, extra)

    def _known(self, name: str) -> str:
        if name not in self._words:
            close = near(name, self._words, "Checkpoint.names()")
            raise KeyError(f"{self.folder} has no layer {shown(name)} ({close})")
        return name

    def _plain(self, part: Part) -> Quantized:
        word = next((w for w in part.words if w in _FOREIGN), None)
        if word is not None:
            raise part.error(word, f"is of a quantised layer, expected none in: {self.scheme}")
        found = part.read("weight")
        if not found.dtype.is_floating_point or found.dtype.itemsize < 2:
            raise part.error("weight", f"is {describe(found)} without scales, expected 16-bit or "
                             f"wider floats in a plain layer ({self.scheme})")  # fmt: skip
        return Quantized("plain", found)

    def _alone(self, key: str) -> Quantized:
        found = self._shards.read(key)
        if found.dtype.is_floating_point and found.dtype.itemsize < 2:
            file = self._shards.files[key]
            raise CheckpointError(
                file, key, f"is {describe(found)}, expected such codes as a weight, with scales"
            )
        return Quantized("plain", found)


def _extra(part: Part, word: str) -> Tensor:
    return part.scales(word, why="") if word.endswith("scale") else part.read(word)


def _bias(part: Part, weight: Quantized) -> Tensor:
    found = part.read("bias")
    fits = weight.format == "plain" or tuple(found.shape) == (weight.shape[0],)
    if not fits or not found.dtype.is_floating_point or found.dtype.itemsize < 2:
        wanted = "floats" if weight.format == "plain" else f"floats [{weight.shape[0]}]"
        raise part.error("bias", f"is {describe(found)}, expected {wanted}")
    return found


def open_checkpoint(folder_or_file: str | os.PathLike[str]) -> Checkpoint:
    """A checkpoint of Hugging Face's layout: `*.safetensors`, with `model.safetensors.index.json`
    where it is of several files, and `config.json`, whose `quantization_config` says how layers
    are stored; without one they are plain. One file is read by itself, with the `config.json`
    beside it.

    Every file's header is read here and each tensor when it is asked for. CheckpointError, which
    names file and key, for a file that is missing, truncated or at odds with its index, for a
    quantization_config that isn't known and, when a layer is read, for a tensor that is missing or
    of another shape or dtype, or scales that are 0, NaN or infinite.
    """
    if not isinstance(folder_or_file, (str, os.PathLike)):
        kind = type(folder_or_file).__name__
        raise ValueError(f"open_checkpoint: folder_or_file must be a path, got {kind}")
    shards = Shards(Path(folder_or_file))
    return Checkpoint(shards, _scheme(shards.folder / "config.json"))


def _scheme(file: Path) -> Scheme:
    if not file.exists():
        return Plain()
    whole = load_json(file)
    key, found = "quantization_config", whole.get("quantization_config")
    inner = whole.get("text_config")
    if found is None and isinstance(inner, dict):
        key, found = f"text_config.{key}", inner.get(key)
    if found is None:
        return Plain()
    config = Config(file, key, found)
    return METHODS[config.one_of("quant_method", METHODS)](config)
