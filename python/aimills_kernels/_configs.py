"""The tiles that a kernel is launched with: its built-in ones, or those of a candidate.

A provider that declares `configs` can be launched with each of them. A candidate is the provider
itself with its `config` set, so that it is checked, timed and served as any other. The kernel asks
for its tiles in one place, by `config(built_in)`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from aimills_kernels._op import Problem, Provider

T = TypeVar("T")
_given: ContextVar[Any] = ContextVar("aimills_config", default=None)


def config(built_in: T) -> T:
    """What this launch was given; `built_in` where that is nothing."""
    given: T | None = _given.get()
    return built_in if given is None else given


def launching_with(launch: Callable[..., None], given: Any) -> Callable[..., None]:
    """`launch` with these tiles."""

    def configured(outs: tuple, *args: Any) -> None:
        token = _given.set(given)
        try:
            launch(outs, *args)
        finally:
            _given.reset(token)

    return configured


def every(provider: Provider, problem: Problem) -> Sequence[Any]:
    """The configurations for a problem, the built-in one first; none where it declares none."""
    return () if provider.configs is None else provider.configs(problem)


def candidates(provider: Provider, problem: Problem) -> list[Provider]:
    """The provider with each configuration but the built-in one, by names of their own."""
    found = every(provider, problem)[1:]
    return [replace(provider, name=f"{provider.name} {c}", config=c) for c in found]


def named(provider: Provider, problem: Problem, name: str) -> Any | None:
    """The configuration that goes by this name; None where the problem has no such one."""
    return next((c for c in every(provider, problem) if str(c) == name), None)


def origin(provider: Provider, problem: Problem) -> str:
    """What `explain` says of the tiles of `provider`; nothing where it declares none."""
    if provider.config is not None:
        return f"tiles {provider.config}, tuned"
    found = every(provider, problem)
    return f"tiles {found[0]}, built in" if found else ""
