"""Which kernels a quantised model runs on, layer by layer."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from aimills_kernels import _dispatch
from aimills_kernels._explain import Explanation
from aimills_kernels._op import describe
from aimills_kernels._words import shown
from aimills_kernels.nn._quantized import QuantLinear

_DTYPES = (torch.float16, torch.bfloat16, torch.float32)


@dataclass(frozen=True)
class LayerExplanation:
    """Layers that multiply alike, and what serves for each number of rows of x: an Explanation, or
    the sentence in which the layer refuses."""

    names: tuple[str, ...]
    scheme: str
    shape: tuple[int, int]  # (N, K)
    device: str
    by_rows: Mapping[int, Explanation | str]
    batch_invariant: bool = False


@dataclass(frozen=True)
class ModelExplanation:
    layers: tuple[LayerExplanation, ...]
    plain: tuple[str, ...]  # nn.Linear, left as they are

    def __str__(self) -> str:
        rows = sorted({M for layer in self.layers for M in layer.by_rows})
        table = [["layers", "scheme", "N x K", "on", *(f"M = {M}" for M in rows)]]
        for layer in self.layers:
            first = f"{len(layer.names)} as {layer.names[0]}"
            cells = [_word(layer.by_rows[M]) for M in rows]
            shape = "{} x {}".format(*layer.shape)
            scheme = layer.scheme + ", batch-invariant" * layer.batch_invariant
            table.append([first, scheme, shape, layer.device, *cells])
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in table
        ]
        if self.plain:
            lines.append(f"{len(self.plain)} nn.Linear as {self.plain[0]}")
        return "\n".join(lines)


def explain_layers(
    model: nn.Module,
    rows: Sequence[int] = (1, 16, 256, 4096),
    *,
    dtype: torch.dtype = torch.bfloat16,
    sm: int | None = None,
) -> ModelExplanation:
    """Say which provider multiplies in each `QuantLinear` of `model`, for each number of rows of x.

    Args:
        model: nothing of it is read but shapes; nothing is computed.
        rows: numbers of rows, batch times tokens.
        dtype: of x.
        sm: a GPU's compute capability times ten, 90 for an H200, instead of the layers' own device.

    Returns:
        what prints as a table; `layers[i].by_rows[M]` is what `QuantLinear.explain` gives, with the
        reason of each provider that does not serve.
    """
    if dtype not in _DTYPES:
        raise ValueError(f"explain_layers: dtype must be f16, bf16 or f32, got {describe(dtype)}")
    if not isinstance(model, nn.Module):
        raise ValueError(f"explain_layers: model must be an nn.Module, got {type(model).__name__}")
    if sm is not None and (type(sm) is not int or sm < 10):
        raise ValueError(f"explain_layers: sm must be as 90 for an H200, got {shown(sm)}")
    listed = isinstance(rows, Sequence) and len(rows) > 0
    if not listed or not all(type(M) is int and M >= 0 for M in rows):
        raise ValueError(f"explain_layers: rows must be whole numbers from 0, got {shown(rows)}")
    alike: dict[tuple, list[tuple[str, QuantLinear]]] = {}
    plain = []
    for name, layer in model.named_modules(remove_duplicate=False):
        if isinstance(layer, QuantLinear):
            kind = (layer.scheme, layer.batch_invariant, *layer.layout())
            alike.setdefault(kind, []).append((name, layer))
        elif isinstance(layer, nn.Linear):
            plain.append(name)
    if not alike:
        raise ValueError("explain_layers: model has no QuantLinear")
    assumed = contextlib.nullcontext() if sm is None else _dispatch.assume_sm(sm)
    with assumed:
        found = tuple(_explained(group, rows, dtype, sm) for group in alike.values())
    return ModelExplanation(found, tuple(plain))


def _explained(
    group: list[tuple[str, QuantLinear]], rows: Sequence[int], dtype: torch.dtype, sm: int | None
) -> LayerExplanation:
    layer = group[0][1]
    device = layer.device if sm is None else torch.device("cuda")
    by_rows: dict[int, Explanation | str] = {}
    for M in rows:
        x = torch.empty(M, layer.in_features, dtype=dtype, device="meta")
        try:
            by_rows[M] = layer.without_data().explain(x, device)
        except ValueError as error:
            by_rows[M] = str(error)
    where = next((e.device for e in by_rows.values() if isinstance(e, Explanation)), str(device))
    shape = (layer.out_features, layer.in_features)
    names, invariant = tuple(n for n, _ in group), layer.batch_invariant
    return LayerExplanation(names, layer.scheme, shape, where, by_rows, invariant)


def _word(found: Explanation | str) -> str:
    return "refused" if isinstance(found, str) else found.provider or "none"
