"""A quantised checkpoint into the layers of a model."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from aimills_kernels._op import describe
from aimills_kernels._words import shown
from aimills_kernels.nn._quantized import QuantLinear, takes_float32

if TYPE_CHECKING:
    from aimills_kernels.checkpoints import Checkpoint, Quantized

_LISTED = 5


def load_checkpoint(
    model: nn.Module,
    folder_or_file: str | os.PathLike[str],
    *,
    int8: Literal["int8-weight", "int8"] = "int8-weight",
    rename: Callable[[str], str] | None = None,
    ignore: Sequence[str] = (),
    device: str | torch.device = "cpu",
) -> dict[str, QuantLinear]:
    """Fill `model` from a checkpoint that `aimills_kernels.checkpoints` reads, in place: its
    quantised weights become `QuantLinear` layers with the codes of the file, the others go to the
    parameters and buffers of that name, in the model's dtype.

        config = AutoConfig.from_pretrained(folder)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        load_checkpoint(model, folder)

    Args:
        model: on a device, or its parameters on "meta"; they are then made as they are read.
        folder_or_file: as `open_checkpoint` takes it. One layer at a time is read, file by file.
        int8: the scheme of layers with int8 weights: activations as they are, or "int8" for such as
            a W8A8 checkpoint means. fp8 layers always quantise activations, by their own values:
            scales of activations that a checkpoint holds are not used.
        rename: from a name in the checkpoint, a layer's or of a tensor that belongs to none, to the
            name in the model. None: they are the same.
        ignore: regular expressions; a key of the checkpoint or of the model that one matches as a
            whole is left alone.
        device: of what was on "meta".

    Returns:
        the new layers by their names in the model.

    Raises:
        CheckpointError (a ValueError): keys that are missing in the checkpoint or unknown in the
            model, which is found before anything is changed; a shape, a scheme or a dtype that does
            not fit the layer. The message names file and key.
    """
    from aimills_kernels.checkpoints import open_checkpoint

    if int8 not in ("int8-weight", "int8"):
        raise ValueError(
            f"load_checkpoint: int8 must be 'int8-weight' or 'int8', got {shown(int8)}"
        )
    loading = _Loading(model, open_checkpoint(folder_or_file), rename, ignore, device)
    loading.check_names()
    made = loading.run(int8)
    left = [n for n, t in (*model.named_parameters(), *model.named_buffers()) if t.is_meta]
    if left:
        raise ValueError(
            f"load_checkpoint: {_some(left)} in the model on 'meta', and no checkpoint holds "
            "it; build the model on a device"
        )
    return made


class _Loading:
    def __init__(
        self, model: nn.Module, checkpoint: Checkpoint, rename: Callable[[str], str] | None,
        ignore: Sequence[str], device: str | torch.device,
    ) -> None:  # fmt: skip
        self.model, self.checkpoint, self.device = model, checkpoint, torch.device(device)
        self.state: dict[str, Tensor] = model.state_dict(keep_vars=True)
        self.aliases: dict[int, list[str]] = {}
        for name, t in self.state.items():
            self.aliases.setdefault(id(t), []).append(name)
        self.rename = rename or (lambda name: name)
        self.ignored = re.compile("|".join(f"(?:{pattern})" for pattern in ignore) or r"(?!)")

    def files(self, name: str) -> dict[str, Path]:
        """The keys of a layer that are not ignored, with the file of each."""
        found = self.checkpoint.files(name)
        return {key: file for key, file in found.items() if not self.ignored.fullmatch(key)}

    def target(self, name: str, word: str) -> str:
        """Where a layer's tensor goes; `word` is "" for a tensor that belongs to no layer."""
        return f"{self.rename(name)}.{word}" if word else self.rename(name)

    def check_names(self) -> None:
        given: dict[str, tuple[Path, str]] = {}
        for name in self.checkpoint.names():
            files = self.files(name)
            for key, file in files.items():
                word = key[len(name) + 1 :]
                if word in ("", "bias"):
                    given[self.target(name, word)] = (file, key)
                else:
                    given.setdefault(self.target(name, "weight"), (file, key))
        unknown = [(file, key) for name, (file, key) in given.items() if name not in self.state]
        there = {id(t) for name, t in self.state.items() if name in given}
        missing = [
            name
            for name, t in self.state.items()
            if id(t) not in there and not self.ignored.fullmatch(name)
        ]
        parts = []
        if missing:
            parts.append(f"{_some(missing)} missing here, the model has it")
        if unknown:
            texts = [f"{key} of {file.name}" for file, key in unknown]
            parts.append(f"{_some(texts)} unknown to the model")
        if parts:
            from aimills_kernels.checkpoints import CheckpointError

            raise CheckpointError(self.checkpoint.folder, "", "; ".join(parts))

    def run(self, int8: str) -> dict[str, QuantLinear]:
        made = {}
        for name in self.checkpoint.names():
            files = self.files(name)
            if not files:
                continue
            weight = self.checkpoint[name].weight
            if f"{name}.bias" not in files:
                weight = replace(weight, bias=None)
            if weight.format != "plain":
                made[self.rename(name)] = self.layer(name, files, weight, int8)
                continue
            word = "" if name in files else "weight"
            if f"{name}.weight" in files or not word:
                self.put(name, word, files, weight.codes)
            if weight.bias is not None:
                self.put(name, "bias", files, weight.bias)
        return made

    def layer(self, name: str, files: dict[str, Path], weight: Quantized, int8: str) -> QuantLinear:
        where = self.rename(name)
        old = self.model.get_submodule(where)
        key = next(iter(files))
        N, K = weight.shape
        if not isinstance(old, (nn.Linear, QuantLinear)):
            raise self.error(files, key, f"is quantised, the model's {where} is no nn.Linear but "
                             f"{type(old).__name__}")  # fmt: skip
        if (old.out_features, old.in_features) != (N, K):
            raise self.error(
                files, key, f"is of a weight [{N}, {K}], the model's {where}.weight is "
                f"[{old.out_features}, {old.in_features}]",
            )  # fmt: skip
        place = next(old.parameters(), old.weight).device
        place = self.device if place.type == "meta" else place
        parts = {f.name: getattr(weight, f.name) for f in fields(weight)}
        copies = {n: t.to(place, copy=True) for n, t in parts.items() if isinstance(t, Tensor)}
        try:
            scheme = int8 if weight.scheme == "int8-channel" else None
            made = QuantLinear.from_quantized(replace(weight, **copies), scheme)
        except ValueError as error:
            raise self.error(files, key, f"does not fit: {error}") from error
        plain = isinstance(old, nn.Linear) and old.weight.dtype == torch.float32
        if plain and not takes_float32(made.scheme):
            raise self.error(files, key, f"is of {made.scheme}, which takes f16 or bf16 "
                             f"activations, the model's {where} is float32")  # fmt: skip
        self.model.set_submodule(where, made.train(old.training))
        return made

    def put(self, name: str, word: str, files: dict[str, Path], t: Tensor) -> None:
        key = f"{name}.{word}" if word else name
        old = self.state[self.target(name, word)]
        if t.shape != old.shape:
            raise self.error(files, key, f"is {describe(t)}, the model's is {describe(old)}")
        if not old.is_meta:
            with torch.no_grad():
                old.copy_(t)
            return
        new = t.to(self.device, old.dtype, copy=True)
        made = nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new
        for alias in self.aliases[id(old)]:
            module, _, own = alias.rpartition(".")
            setattr(self.model.get_submodule(module), own, made)
            self.state[alias] = made

    def error(self, files: dict[str, Path], key: str, sentence: str) -> ValueError:
        from aimills_kernels.checkpoints import CheckpointError

        return CheckpointError(files[key], key, sentence)


def _some(names: Iterable[str]) -> str:
    """The first few of them, and the verb."""
    listed = list(names)
    more = f" and {len(listed) - _LISTED} more" if len(listed) > _LISTED else ""
    return ", ".join(listed[:_LISTED]) + more + (" is" if len(listed) == 1 else " are")
