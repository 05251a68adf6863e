"""The tensors of a folder of safetensors files: which file holds which, and reading one."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aimills_kernels._op import describe
from aimills_kernels._words import shown
from aimills_kernels.checkpoints._errors import CheckpointError

INDEX = "model.safetensors.index.json"
NOT_INSTALLED = "safetensors is not installed (pip install aimills-kernels[checkpoints])"
_PART = re.compile(r"(.*)-(\d+)-of-(\d+)\.safetensors")
_FLOATS = (torch.float16, torch.bfloat16, torch.float32)
_E8M0 = torch.float8_e8m0fnu


class Shards:
    """Every key with the file that holds it, in the files' order. One file is mapped at a time;
    tensors keep their own file mapped for as long as they live."""

    def __init__(self, path: Path):
        if importlib.util.find_spec("safetensors") is None:
            raise ImportError(NOT_INSTALLED)
        self.folder = path if path.is_dir() else path.parent
        self.files: dict[str, Path] = {}
        self._open: tuple[Path, Any] | None = None
        listed = _listed(path)
        for file in dict.fromkeys(listed.values()) if listed else _found(path):
            for key in self._handle(file).keys():  # noqa: SIM118  (no mapping)
                self._add(key, file, listed)
        for key, file in listed.items():
            if key not in self.files:
                raise CheckpointError(file, key, f"is missing, although {INDEX} places it there")
        self._open = None

    def _add(self, key: str, file: Path, listed: dict[str, Path]) -> None:
        if key in self.files:
            other = self.files[key].name
            raise CheckpointError(file, key, f"is in {other} too; it is expected once")
        if listed and listed.get(key) != file:
            where = f"in {listed[key].name}" if key in listed else "nowhere"
            raise CheckpointError(file, key, f"is here, but {INDEX} places it {where}")
        self.files[key] = file

    def read(self, key: str) -> Tensor:
        """A view of the mapped file."""
        file = self.files[key]
        try:
            return self._handle(file).get_tensor(key)
        except CheckpointError:
            raise
        except Exception as error:  # safetensors' own, and KeyError of a dtype torch lacks
            raise CheckpointError(file, key, f"can't be read: {shown(str(error))}") from error

    def _handle(self, file: Path) -> Any:
        from safetensors import SafetensorError, safe_open

        if self._open is None or self._open[0] != file:
            try:
                self._open = (file, safe_open(file, framework="pt"))
            except FileNotFoundError:
                raise CheckpointError(file, "", "this file of the checkpoint is missing") from None
            except (SafetensorError, OSError) as error:
                raise CheckpointError(file, "", _damage(file, error)) from error
        return self._open[1]


def _listed(path: Path) -> dict[str, Path]:
    """What the index says; nothing where there is none, or one file was named."""
    index = path / INDEX
    if not path.is_dir() or not index.exists():
        return {}
    weight_map = load_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        found = shown(weight_map)
        raise CheckpointError(
            index, "weight_map", f"is {found}, expected a file name for each tensor"
        )
    for key, name in weight_map.items():
        if not isinstance(name, str) or Path(name).name != name:
            raise CheckpointError(
                index, key, f"is placed in {shown(name)}, expected a file of this folder"
            )
    return {key: path / weight_map[key] for key in sorted(weight_map, key=weight_map.__getitem__)}


def _found(path: Path) -> list[Path]:
    """The files without an index: one named or called model.safetensors, or all of them."""
    if not path.is_dir():
        if not path.exists():
            raise CheckpointError(path, "", "there is no such file or folder")
        return [path]
    if (path / "model.safetensors").exists():
        return [path / "model.safetensors"]
    files = sorted(path.glob("*.safetensors"))
    if not files:
        raise CheckpointError(path, "", f"there is no *.safetensors and no {INDEX} in this folder")
    for file in files:
        if part := _PART.fullmatch(file.name):
            stem, digits, count = part[1], len(part[2]), part[3]
            for number in range(1, int(count) + 1):
                wanted = path / f"{stem}-{number:0{digits}d}-of-{count}.safetensors"
                if not wanted.exists():
                    raise CheckpointError(wanted, "", f"this file is missing, {file.name} is there")
    return files


def _damage(file: Path, error: Exception) -> str:
    """What is wrong with a file that does not open: how many bytes its header asks for."""
    size = file.stat().st_size
    said = f"{shown(str(error))}, in {size} bytes"
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(length)) if length < size else {}
        ends = [v["data_offsets"][1] for k, v in header.items() if k != "__metadata__"]
        wanted = 8 + length + max(ends, default=0)
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"this is no safetensors file: {said}"
    if size < wanted:
        return f"this file is truncated: {size} bytes found, {wanted} expected"
    return f"this file is damaged: {said}"


def load_json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(file, "", f"this is no JSON: {shown(str(error))}") from error
    if not isinstance(found, dict):
        raise CheckpointError(file, "", f"this is {type(found).__name__}, expected a JSON object")
    return found


class Part:
    """The tensors of one module, by the last word of their keys."""

    def __init__(self, name: str, words: Iterable[str], shards: Shards):
        self.name, self.words, self._shards = name, tuple(words), shards
        self.taken: set[str] = set()

    def __contains__(self, word: str) -> bool:
        return word in self.words

    def key(self, word: str) -> str:
        return f"{self.name}.{word}" if self.name else word

    def error(self, word: str, sentence: str) -> CheckpointError:
        """About a tensor of this module; a missing one is of the file of those that are there."""
        key = self.key(word)
        anchor = key if word in self.words else self.key(self.words[0])
        return CheckpointError(self._shards.files[anchor], key, sentence)

    def read(
        self,
        word: str,
        dtypes: tuple[torch.dtype, ...] = (),
        *shapes: tuple[int, ...],
        why: str = "",
    ) -> Tensor:
        """The tensor, of one of these dtypes and shapes; `why` says where a shape comes from."""
        if word not in self.words:
            others = ", ".join(self.words)
            raise self.error(word, f"is missing; this layer has {others}")
        found = self._shards.read(self.key(word))
        self.taken.add(word)
        if dtypes and found.dtype not in dtypes:
            kinds = " or ".join(describe(d) for d in dtypes)
            raise self.error(word, f"is {describe(found)}, expected {kinds}")
        if shapes and tuple(found.shape) not in shapes:
            sizes = " or ".join(str(list(s)) for s in shapes)
            because = f" ({why})" if why else ""
            raise self.error(word, f"is {describe(found)}, expected {sizes}{because}")
        return found

    def matrix(self, word: str, *dtypes: torch.dtype) -> Tensor:
        found = self.read(word, dtypes)
        if found.dim() != 2:
            raise self.error(word, f"is {describe(found)}, expected two dimensions")
        return found

    def scales(self, word: str, *shapes: tuple[int, ...], why: str, fp8: bool = False) -> Tensor:
        """As `read`, and neither 0 nor NaN nor infinite anywhere. Those of fp8 codes become
        float32, which is exact; e8m0 is one of their dtypes."""
        found = self.read(word, (*_FLOATS, _E8M0) if fp8 else _FLOATS, *shapes, why=why)
        if fp8:
            found = found.float()
        if found.numel() and not bool(torch.isfinite(found).all()):
            raise self.error(word, f"holds NaN or infinity, expected finite {describe(found)}")
        if bool((found == 0).any()):
            count = int((found == 0).sum())
            raise self.error(word, f"is 0 in {count} of {found.numel()} places, expected none")
        return found

    def group_index(self, word: str, K: int, groups: int, group_size: int) -> Tensor | None:
        """The group of each column; None where groups are runs of columns."""
        found = self.read(word, (torch.int32, torch.int64), (K,), why="one for each input")
        if K and not 0 <= int(found.min()) <= int(found.max()) < groups:
            low, high = int(found.min()), int(found.max())
            raise self.error(
                word, f"is {low} to {high}, expected 0 to {groups - 1}, a row of scales"
            )
        if bool((found == torch.arange(K) // max(group_size, 1)).all()):
            return None
        return found.to(torch.int32)
