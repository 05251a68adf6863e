"""The declaration of an op.

`kernels/<family>/op.py` builds one `Op`. The torch op and its schema, the CPU path, the tests, the
benchmarks, the acceptance stage and `explain` are derived from it; nothing is stated a second time.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import NoneType
from typing import Any, get_args, get_origin

import torch
from torch import Tensor
from torch.nn import Parameter

from aimills_kernels._tolerance import Tolerance
from aimills_kernels._words import near, shown

_TENSOR_KEY = (
    "({0}.shape, {0}.stride(), {0}.dtype, {0}.device, {0}.data_ptr() & 15, {0}.requires_grad, "
    "{0}.is_neg())"
)
PLAIN = frozenset({Tensor, Parameter})
_WIDE = (torch.float16, torch.bfloat16, torch.float32)
_DRAWN_ON_CPU = 1 << 20  # bytes that an op moves; a CPU draws as many in some 10 ms


class Case:
    """A named set of dimensions. `cpu` replaces some of them where the device is a CPU."""

    def __init__(
        self,
        name: str,
        *,
        tags: Iterable[str] = (),
        cpu: Mapping[str, Any] | None = None,
        **dims: Any,
    ):
        self.name, self.tags, self.cpu, self.dims = name, frozenset(tags), dict(cpu or {}), dims

    def __getattr__(self, key: str) -> Any:
        try:
            return self.__dict__["dims"][key]
        except KeyError:
            raise AttributeError(f"case {self.__dict__.get('name')!r} has no {key!r}") from None

    def get(self, key: str, default: Any = None) -> Any:
        return self.dims.get(key, default)

    def one_of(self, key: str, *allowed: Any) -> Any:
        """Its word for `key`, by default the first; one that is misspelt must not pass for that."""
        value = self.dims.get(key, allowed[0])
        if value not in allowed:
            words = ", ".join(str(a) for a in allowed if a is not None)
            raise ValueError(f"{key} must be one of {words}, got {value!r}")
        return value

    def on(self, device_type: str) -> Case:
        """The case as it runs on a device of this type."""
        if device_type != "cpu" or not self.cpu:
            return self
        return Case(self.name, tags=self.tags, **{**self.dims, **self.cpu})

    def __repr__(self) -> str:
        return self.name

    def describe(self) -> str:
        return " ".join(f"{k}={v}" for k, v in self.dims.items())


@dataclass(frozen=True)
class Cost:
    """The least work of the op, whatever a kernel does: operations, bytes moved, and the arithmetic
    (`unit`: "f32", "f16", "fp8", "int8") whose peak the operations are held against."""

    flops: float
    bytes: float
    unit: str = "f16"


class Problem:
    """What `rejects` sees: the arguments by name, the device type and its capability."""

    def __init__(self, op: Op, args: Sequence[Any], device: str, sm: int | None):
        self.op, self.args, self.device, self.sm = op, args, device, sm

    def __getattr__(self, key: str) -> Any:
        params = self.__dict__["op"].params
        if key not in params:
            raise AttributeError(f"{self.__dict__['op'].name} has no argument {key!r}")
        return self.__dict__["args"][params.index(key)]


def _accepts(_: Problem) -> str | None:
    return None


@dataclass(frozen=True)
class Provider:
    """One implementation of an op.

    `target` is "module:function", imported at first use and called as `target(outs, *args)`: it
    fills every tensor of `outs` and never allocates one. `sm` lists compute capabilities times ten;
    a device matches by its major number, and an empty tuple is any. `vendor` marks someone else's
    implementation: it is trusted without a record and serves as a peer in the benchmarks.
    """

    name: str
    target: str
    devices: tuple[str, ...] = ("cuda",)
    sm: tuple[int, ...] = ()
    rejects: Callable[[Problem], str | None] = _accepts
    vendor: bool = False
    last: bool = False  # behind the reference: serves where a tuned table says so, or asked for
    interpret: bool = False  # a Triton kernel: runs on a CPU under TRITON_INTERPRET=1
    needs: tuple[str, ...] = ()  # importable packages without which it can't run
    sources: tuple[str, ...] = ()  # further files that its record depends on, package-relative
    # How many float32 of scratch memory a launch on these arguments needs; the launch gets them as
    # one tensor behind `outs`, whatever is in it.
    workspace: Callable[..., int] | None = None
    # The configurations that its kernel may be launched with on a problem, the built-in one first;
    # `str` of each is its name. The launch takes that of `_configs.config`.
    configs: Callable[[Problem], Sequence[Any]] | None = None
    config: Any = None  # one of them, for a launch with that in place of the built-in one

    @classmethod
    def triton(
        cls,
        name: str,
        target: str,
        *,
        rejects: Callable[[Problem], str | None] = _accepts,
        limits: bool = False,
        sources: tuple[str, ...] = (),
        workspace: Callable[..., int] | None = None,
        configs: Callable[[Problem], Sequence[Any]] | None = None,
    ) -> Provider:
        """A Triton kernel. What it can't do, `rejects` says or, with `limits`, the function of that
        name beside its `launch`: then a choice on a GPU imports Triton, and so does `explain`."""
        return cls(
            name, target, sm=(80, 90, 100, 120), rejects=_beside(target) if limits else rejects,
            interpret=True, needs=("triton",), sources=(*sources, "kernels/triton_common.py"),
            workspace=workspace, configs=configs,
        )  # fmt: skip

    def __repr__(self) -> str:
        return self.name


def _beside(target: str) -> Callable[[Problem], str | None]:
    """The function `rejects` of the target's module, which is imported when it is asked."""

    def rejects(problem: Problem) -> str | None:
        try:
            module = importlib.import_module(target.partition(":")[0])
        except ImportError as error:
            return f"its file can't be imported: {error}"
        return module.rejects(problem)

    return rejects


@dataclass(frozen=True)
class Invalid:
    """A call that must fail: `change` edits the arguments of case `base`; `match` is what the
    ValueError must say. `value` marks a check that reads tensor contents."""

    name: str
    change: Callable[[dict[str, Any]], dict[str, Any]]
    match: str
    base: str = "tiny"
    value: bool = False

    def __repr__(self) -> str:
        return self.name.replace(" ", "-")


@dataclass(frozen=True)
class Backward:
    """Gradients by an op of their own, which is declared like any other.

    op         its name in OPS
    saving     the forward's flat arguments, changed so that it also gives what the backward wants;
               they count where a kernel serves them, as the reference would do without
    arguments  (args, outs, grads, needs) to the flat arguments of `op`: `outs` are the outputs of
               the forward, `grads` theirs or None, `needs` whether each argument wants a gradient
    gradients  (args, results, needs) to a gradient or None for each argument, in their order
    """

    op: str
    saving: Callable[[tuple], tuple]
    arguments: Callable[[tuple, tuple, tuple, tuple[bool, ...]], tuple]
    gradients: Callable[[tuple, tuple, tuple[bool, ...]], tuple]


@dataclass(frozen=True)
class Op:
    """One op, declared once. See `docs/adr/0001-one-declaration.md`.

    `reference` is plain PyTorch on any device with the op's flat schema; with float64 inputs it is
    the oracle. `fake` checks the arguments (ValueError) and returns the empty outputs. `values`
    checks tensor contents: always on a CPU, on a GPU with AIMILLS_CHECK=1. `backward` is a
    `Backward`, "reference" (differentiate the reference, recomputed) or None (outputs carry no
    gradient). `inputs` draws on the device of its generator, and asks for no value of what it
    draws: `meta_inputs` has none. An op that writes to arguments of its own names them in
    `mutates`, which then are its outputs: the reference writes too, and returns nothing.
    `presented` gives the views of (outputs, args) that the public function returns, where these are
    not the outputs as they lie in memory. `rows` names the tensors whose last dim but one counts
    rows, of which there may be any number: a tuned choice then serves other numbers nearby, and
    what fewer rows launch is compiled ahead too.
    """

    name: str
    reference: Callable[..., Any]
    fake: Callable[..., Any]
    inputs: Callable[[Case, torch.Generator], dict[str, Any]]
    cases: tuple[Case, ...]
    cost: Callable[[Case], Cost]
    tolerance: tuple[Tolerance, ...]
    errors: tuple[Invalid, ...]
    providers: tuple[Provider, ...]
    values: Callable[..., None] | None = None
    backward: Backward | str | None = None
    outputs: tuple[str, ...] = ("out",)
    mutates: tuple[str, ...] = ()
    reference_rejects: Callable[[Problem], str | None] = _accepts
    presented: Callable[[tuple, Sequence[Any]], tuple] | None = None
    rows: tuple[str, ...] = ()

    def __hash__(self) -> int:
        return hash(self.name)

    @cached_property
    def params(self) -> tuple[str, ...]:
        return tuple(inspect.signature(self.reference).parameters)

    @cached_property
    def schema(self) -> str:
        return torch.library.infer_schema(self.reference, mutates_args=self.mutates)

    @cached_property
    def tensors(self) -> tuple[int, ...]:
        """Positions of the arguments that hold tensors."""
        kinds = inspect.get_annotations(self.reference, eval_str=True)
        return tuple(i for i, p in enumerate(self.params) if "Tensor" in str(kinds[p]))

    @cached_property
    def lists(self) -> frozenset[int]:
        """Positions of the arguments that are lists."""
        kinds = inspect.get_annotations(self.reference, eval_str=True)
        return frozenset(i for i, p in enumerate(self.params) if get_origin(kinds[p]) is list)

    @cached_property
    def workspace(self) -> bool:
        """Whether a caller may pass scratch memory in: some provider needs any."""
        return any(p.workspace is not None for p in self.providers)

    def needed_workspace(self, args: Sequence[Any]) -> int:
        """Bytes that are enough for every provider."""
        return 4 * max((p.workspace(*args) for p in self.providers if p.workspace), default=0)

    def written(self, args: Sequence[Any]) -> tuple[Tensor, ...]:
        """The arguments that the op writes to."""
        return tuple(args[self.params.index(name)] for name in self.mutates)

    @cached_property
    def optional(self) -> frozenset[int]:
        """Positions of the tensors that may be None."""
        kinds = inspect.get_annotations(self.reference, eval_str=True)
        return frozenset(i for i in self.tensors if NoneType in get_args(kinds[self.params[i]]))

    @cached_property
    def key(self) -> Callable[..., tuple]:
        """`key(*args)`: all of the arguments that a plan depends on.

        With the types of scalars, as 1, 1.0 and True are equal; with a wanted gradient and a
        negative bit, as such calls go through torch. AttributeError, RuntimeError or TypeError
        where an argument is not of its declared kind.
        """
        return eval(f"lambda {', '.join(self.params)}: {self._key_text}")

    @cached_property
    def plain_key(self) -> Callable[..., tuple | None]:
        """`key`, or None where a tensor is of a subclass, of which nothing else is then asked."""
        tests = []
        for i in self.tensors:
            p = self.params[i]
            test = f"type({p}) in PLAIN"
            if i in self.lists:
                test = f"PLAIN.issuperset(map(type, {p}))"
            elif i in self.optional:
                test = f"({p} is None or {test})"
            tests.append(test)
        body = f"{self._key_text} if {' and '.join(tests)} else None"
        return eval(f"lambda {', '.join(self.params)}: {body}", {"PLAIN": PLAIN})

    @cached_property
    def _key_text(self) -> str:
        """Written out by name: a loop costs 1 us more for five tensors, a quarter of the key."""
        parts = []
        kinds = inspect.get_annotations(self.reference, eval_str=True)
        for i, p in enumerate(self.params):
            if i in self.lists:
                each = _TENSOR_KEY.format("e") if i in self.tensors else "e"
                parts.append(f"tuple([{each} for e in {p}])")
            elif i in self.optional:
                parts.append(f"{p} if {p} is None else {_TENSOR_KEY.format(p)}")
            elif i in self.tensors:
                parts.append("*" + _TENSOR_KEY.format(p))
            elif kinds[p] in (str, torch.dtype):  # equal to none of another type
                parts.append(p)
            else:
                parts.append(f"type({p}), {p}")
        return f"({', '.join(parts)},)"

    @cached_property
    def all_providers(self) -> tuple[Provider, ...]:
        first = [p for p in self.providers if not p.last]
        return *first, _reference_provider(self), *(p for p in self.providers if p.last)

    def provider(self, name: str) -> Provider:
        for provider in self.all_providers:
            if provider.name == name:
                return provider
        known = ", ".join(p.name for p in self.all_providers)
        raise ValueError(f"{self.name} has no provider {shown(name)}; it has: {known}")

    def case(self, name: str) -> Case:
        for case in self.cases:
            if case.name == name:
                return case
        known = near(name, (c.name for c in self.cases))
        raise ValueError(f"{self.name} has no case {shown(name)}; {known}")

    def flat(self, named: Mapping[str, Any]) -> tuple:
        """Arguments in schema order. The flat schema has no defaults: torch would strip them."""
        return tuple([named[p] for p in self.params])

    def make_inputs(self, case: Case, device: str | torch.device, seed: int) -> tuple:
        """Fresh arguments for `case`. A small case has the same data on every device; a large one
        is drawn on the GPU itself, and is the same on every GPU of that model."""
        place = torch.device(device)
        on_gpu = place.type == "cuda" and self.cost(case).bytes > _DRAWN_ON_CPU
        generator = torch.Generator(place if on_gpu else "cpu").manual_seed(seed)
        named = self.inputs(case, generator)
        return tuple(to_device(a, device) for a in self.flat(named))

    def meta_inputs(self, case: Case) -> tuple:
        """What `make_inputs` gives, as meta tensors: nothing is drawn, whatever the size."""
        from torch._subclasses.fake_tensor import FakeTensorMode

        with FakeTensorMode():
            named = self.inputs(case, torch.Generator())

        def meta(t: Tensor) -> Tensor:
            shift = 0 if t.is_contiguous() else t.storage_offset() % 16  # as in `to_device`
            base = torch.empty(span(t) + shift, dtype=t.dtype, device="meta")
            return base.as_strided(t.shape, t.stride(), shift)

        return tuple(map_tensors(meta, a) for a in self.flat(named))

    def results(self, args: tuple) -> tuple:
        """The outputs by the reference; the arguments stay as they are."""
        if not self.mutates:
            return as_tuple(self.reference(*args))
        own = self.with_own(args)
        self.reference(*own)
        return self.written(own)

    def with_own(self, args: tuple) -> tuple:
        """The arguments, with copies of those that the op writes to."""
        return tuple(
            a.clone() if p in self.mutates else a for p, a in zip(self.params, args, strict=True)
        )

    def oracle(self, args: tuple) -> tuple:
        """The outputs in float64."""
        return self.results(tuple(_upcast(a) for a in args))

    def __repr__(self) -> str:
        return self.name


def _reference_provider(op: Op) -> Provider:
    return Provider(
        "reference",
        f"aimills_kernels._dispatch:reference_launch/{op.name}",
        devices=("cpu", "cuda"),
        rejects=op.reference_rejects,
        vendor=True,
    )


def as_tuple(outputs: Any) -> tuple:
    if outputs is None:
        return ()
    return outputs if isinstance(outputs, tuple) else (outputs,)


def map_tensors(fn: Callable[[Tensor], Tensor], arg: Any) -> Any:
    """`fn` on a tensor or on each tensor of a list; anything else passes through."""
    if isinstance(arg, Tensor):
        return fn(arg)
    if isinstance(arg, (list, tuple)) and any(isinstance(a, Tensor) for a in arg):
        return [fn(a) for a in arg]
    return arg


def tensors_of(args: Iterable[Any]) -> Iterator[Tensor]:
    """Every tensor among flat arguments, those in lists too."""
    for a in args:
        if isinstance(a, Tensor):
            yield a
        elif isinstance(a, (list, tuple)):
            yield from (t for t in a if isinstance(t, Tensor))


def span(t: Tensor) -> int:
    """Elements from the first to the last that the tensor reaches, both counted."""
    if t.numel() == 0:
        return 0
    return 1 + sum((n - 1) * s for n, s in zip(t.shape, t.stride(), strict=True))


def overlaps_itself(t: Tensor) -> bool:
    """Whether elements may share memory. A few layouts that don't, in which strides interleave, are
    taken for such that do."""
    if 0 in t.shape:
        return False
    reach = 0
    for stride, n in sorted(zip(t.stride(), t.shape, strict=True)):
        if n > 1 and stride <= reach:
            return True
        reach += (n - 1) * stride
    return False


def address_range(t: Tensor) -> tuple[int, int]:
    """First address and the one past the last."""
    return t.data_ptr(), t.data_ptr() + span(t) * t.element_size()


def to_device(arg: Any, device: str | torch.device) -> Any:
    """Move to `device` and keep the strides, which `.to()` would not for a sparse view."""

    def move(t: Tensor) -> Tensor:
        if t.device == torch.device(device):
            return t
        if t.is_contiguous() or 0 in t.shape:
            return t.to(device)
        shift = t.storage_offset() % 16  # keeps an odd alignment odd
        moved = torch.empty(span(t) + shift, dtype=t.dtype, device=device)
        moved = moved.as_strided(t.shape, t.stride(), shift)
        return moved if torch.device(device).type == "meta" else moved.copy_(t)

    return map_tensors(move, arg)


def _upcast(arg: Any) -> Any:
    if isinstance(arg, torch.dtype):
        return torch.float64 if arg in _WIDE else arg
    return map_tensors(lambda t: t.to(torch.float64) if t.is_floating_point() else t, arg)


def describe(arg: Any) -> str:
    """How an argument is named in messages."""
    if isinstance(arg, Tensor):
        return f"{str(arg.dtype).removeprefix('torch.')}{list(arg.shape)}"
    if isinstance(arg, (list, tuple)) and arg and isinstance(arg[0], Tensor):
        return "(" + ", ".join(describe(a) for a in arg) + ")"
    return str(arg).removeprefix("torch.")
