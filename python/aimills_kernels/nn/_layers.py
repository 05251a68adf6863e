"""Which layers of a model are converted."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from aimills_kernels._words import shown


def linears(
    what: str, model: nn.Module, filter: Callable[[str, nn.Linear], bool] | None
) -> dict[str, nn.Linear]:
    """The `nn.Linear` layers of `model` that `filter` picks, by each of their names. Subclasses are
    left alone, as what they compute may be something else."""
    if not isinstance(model, nn.Module):
        raise ValueError(f"{what}: model must be an nn.Module, got {type(model).__name__}")
    if filter is not None and not callable(filter):
        raise ValueError(f"{what}: filter must be a function or None, got {shown(filter)}")
    found = {
        name: layer
        for name, layer in model.named_modules(remove_duplicate=False)
        if type(layer) is nn.Linear and (filter is None or filter(name, layer))
    }
    if not found:
        chosen = "nn.Linear" if filter is None else "nn.Linear that filter picks"
        raise ValueError(f"{what}: model has no {chosen}")
    return found
