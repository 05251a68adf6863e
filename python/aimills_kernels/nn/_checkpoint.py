"""A quantised checkpoint into the layers of a model."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from aimills_kernels._op import describe
from aimills_kernels._words import shown
from aimills_kernels.checkpoints import Checkpoint, CheckpointError, Quantized, open_checkpoint
from aimills_kernels.nn._quantized import QuantLinear, takes_float32
from aimills_kernels.ops._flags import check_bools

_LISTED = 5


def load_checkpoint(
    model: nn.Module,
    folder_or_file: str | os.PathLike[str],
    *,
    int8: Literal["int8-weight", "int8"] = "int8-weight",
    rename: Callable[[str], str] | None = None,
    ignore: Sequence[str] = (),
    device: str | torch.device = "cpu",
    batch_invariant: bool = False,
) -> dict[str, QuantLinear]:
    """Fill `model` from a checkpoint that `aimills_kernels.checkpoints` reads, in place: its
    quantised weights become `QuantLinear` layers with the codes of the file, the others go to the
    parameters and buffers of that name, in the model's dtype.

        read = AutoConfig.from_pretrained(folder)
        del read.quantization_config
        model = AutoModelForCausalLM.from_config(read, dtype=torch.bfloat16)
        load_checkpoint(model, folder)

    Args:
        model: on a device, or its parameters on "meta"; they are then made as they are read. A
            buffer that no checkpoint holds must be on a device.
        folder_or_file: as `open_checkpoint` takes it. One layer at a time is read, file by file.
        int8: the scheme of layers with int8 weights: activations as they are, or "int8" for such as
            a W8A8 checkpoint means. fp8 layers always quantise activations, by their own values:
            scales of activations that a checkpoint holds are not used.
        rename: from a name in the checkpoint, a layer's or of a tensor that belongs to none, to the
            name in the model. None: they are the same.
        ignore: regular expressions; a key of the checkpoint or of the model that one matches as a
            whole is left alone, and a quantised weight with any of its keys.
        device: of what was on "meta".
        batch_invariant: of the new layers, as `quantize_` takes it.

    Returns:
        the new layers by their names in the model.

    Raises:
        CheckpointError (a ValueError): keys that are missing in the checkpoint or unknown in the
            model, which is found before anything is changed; a shape, a scheme or a dtype that does
            not fit the layer. The message names file and key.
    """
    if int8 not in ("int8-weight", "int8"):
        raise ValueError(
            f"load_checkpoint: int8 must be 'int8-weight' or 'int8', got {shown(int8)}"
        )
    check_bools("load_checkpoint", batch_invariant=batch_invariant)
    if not isinstance(model, nn.Module):
        raise ValueError(f"load_checkpoint: model must be an nn.Module, got {type(model).__name__}")
    loading = _Loading(model, open_checkpoint(folder_or_file), rename, ignore, device)
    loading.check_names()
    made = loading.run(int8, batch_invariant)
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
        self.tied = _by_identity(self.state.items())
        self.by_name = dict(model.named_modules(remove_duplicate=False))
        self.modules = _by_identity(self.by_name.items())
        self.given = rename or (lambda name: name)
        self.ignored = _any_of(ignore)

    def rename(self, name: str) -> str:
        where = self.given(name)
        if not isinstance(where, str):
            raise ValueError(
                f"load_checkpoint: rename must give a name for {shown(name)}, got {shown(where)}"
            )
        return where

    def files(self, name: str) -> dict[str, Path]:
        """The keys of a layer that are not ignored, with the file of each. A weight of several
        tensors is ignored as a whole."""
        found = self.checkpoint.files(name)
        gone = {key for key in found if self.ignored.fullmatch(key)}
        weight = found.keys() - {f"{name}.bias"}
        gone |= weight if gone & weight else set()
        return {key: file for key, file in found.items() if key not in gone}

    def check_names(self) -> None:
        """Both sides have the same names."""
        given: dict[str, tuple[str, Path]] = {}
        covered: set[str] = set()
        for name in self.checkpoint.names():
            files, where = self.files(name), self.rename(name)
            for target, key in _targets(name, where, files).items():
                if target in given and given[target][0].rpartition(".")[0] != name:
                    raise self.error(files, key, f"goes to {target} as {given[target][0]} does")
                self._check_free(where, target, files, key)
                given[target] = (key, files[key])
                if _quantised(name, files):  # a layer takes its place, wherever that is used
                    word = target.removeprefix(where)
                    module = dict(self.model.named_modules()).get(where)
                    covered.update(alias + word for alias in self.modules.get(id(module), ()))
                elif target in self.state:
                    covered.update(self.tied[id(self.state[target])])
        missing = [
            name
            for name in self.state
            if name not in given and name not in covered and not self.ignored.fullmatch(name)
        ]
        unknown = [f"{key} of {f.name}" for to, (key, f) in given.items() if to not in self.state]
        parts = [f"{_some(missing)} missing here, the model has it"] if missing else []
        parts += [f"{_some(unknown)} unknown to the model"] if unknown else []
        if parts:
            raise CheckpointError(self.checkpoint.folder, "", "; ".join(parts))

    def _check_free(self, where: str, target: str, files: dict[str, Path], key: str) -> None:
        """A layer with codes has other names than the checkpoint, which would only be missing."""
        old = self.by_name.get(where)
        if isinstance(old, QuantLinear) and target != f"{where}.bias":
            raise self.error(files, key, f"goes to {where}, which is quantised already "
                             f"({old.scheme}); load into the model as it was built, of nn.Linear "
                             "layers")  # fmt: skip

    def run(self, int8: str, invariant: bool) -> dict[str, QuantLinear]:
        made = {}
        for name in self.checkpoint.names():
            files, where = self.files(name), self.rename(name)
            if not files:
                continue
            weight = self.checkpoint[name].weight
            if weight.format != "plain" and files.keys() != {f"{name}.bias"}:
                made[where] = self.layer(name, files, weight, int8, invariant)
                continue
            for target, key in _targets(name, where, files).items():
                bias = key == f"{name}.bias" and weight.bias is not None
                self.put(target, key, files, weight.bias if bias else weight.codes)
        return made

    def layer(
        self, name: str, files: dict[str, Path], weight: Quantized, int8: str, invariant: bool
    ) -> QuantLinear:
        where, key = self.rename(name), next(iter(files))
        old = self.model.get_submodule(where)
        shape = tuple(weight.shape)
        if type(old) is not nn.Linear:
            raise self.error(files, key, f"is quantised, the model's {where} is no nn.Linear but "
                             f"{type(old).__name__}")  # fmt: skip
        if tuple(old.weight.shape) != shape:
            raise self.error(files, key, f"is of a weight {list(shape)}, the model's {where} has "
                             f"{list(old.weight.shape)}")  # fmt: skip
        place = self.device if old.weight.is_meta else old.weight.device
        parts = {f.name: getattr(weight, f.name) for f in fields(weight) if f.name != "bias"}
        copies = {n: t.to(place, copy=True) for n, t in parts.items() if isinstance(t, Tensor)}
        try:
            scheme = int8 if weight.scheme == "int8-channel" else None
            made = QuantLinear.from_quantized(
                replace(weight, **copies, bias=None), scheme, batch_invariant=invariant
            )
        except ValueError as error:
            raise self.error(files, key, f"does not fit: {error}") from error
        if old.weight.dtype == torch.float32 and not takes_float32(made.scheme):
            raise self.error(files, key, f"is of {made.scheme}, which takes f16 or bf16 "
                             f"activations, the model's {where} is float32")  # fmt: skip
        made.bias = old.bias
        if f"{name}.bias" in files and weight.bias is not None:
            bias = weight.bias.to(place, old.weight.dtype, copy=True)
            made.bias = nn.Parameter(bias, requires_grad=False)
        for alias in self.modules[id(old)]:
            self.model.set_submodule(alias, made.train(old.training))
        return made

    def put(self, target: str, key: str, files: dict[str, Path], t: Tensor) -> None:
        old = self.state[target]
        if t.shape != old.shape:
            raise self.error(files, key, f"is {describe(t)}, the model's is {describe(old)}")
        if not old.is_meta:
            with torch.no_grad():
                old.copy_(t)
            return
        new = t.to(self.device, old.dtype, copy=True)
        made = nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new
        names = self.tied.pop(id(old))
        for name in names:
            module, _, own = name.rpartition(".")
            setattr(self.model.get_submodule(module), own, made)
            self.state[name] = made
        self.tied[id(made)] = names

    def error(self, files: dict[str, Path], key: str, sentence: str) -> CheckpointError:
        return CheckpointError(files[key], key, sentence)


def _any_of(patterns: Sequence[str]) -> re.Pattern[str]:
    if isinstance(patterns, str) or not all(isinstance(p, str) for p in patterns):
        raise ValueError(
            f"load_checkpoint: ignore must be a list of regular expressions, got {shown(patterns)}"
        )
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(
                f"load_checkpoint: ignore has {shown(pattern)}, no regular expression: {error}"
            ) from error
    return re.compile("|".join(f"(?:{pattern})" for pattern in patterns) or r"(?!)")


def _targets(name: str, where: str, files: Iterable[str]) -> dict[str, str]:
    """Names in the model, a weight's and a bias's, and the first key of each."""
    found: dict[str, str] = {}
    for key in files:
        word = "" if key == name else ".bias" if key == f"{name}.bias" else ".weight"
        found.setdefault(where + word, key)
    return found


def _quantised(name: str, files: Iterable[str]) -> bool:
    """Whether codes are there, which no layer has without a second tensor."""
    return not {key.removeprefix(name) for key in files} <= {"", ".weight", ".bias"}


def _by_identity(named: Iterable[tuple[str, object]]) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for name, one in named:
        found.setdefault(id(one), []).append(name)
    return found


def _some(names: Iterable[str]) -> str:
    """The first few of them, and the verb."""
    listed = list(names)
    more = f" and {len(listed) - _LISTED} more" if len(listed) > _LISTED else ""
    return ", ".join(listed[:_LISTED]) + more + (" is" if len(listed) == 1 else " are")
