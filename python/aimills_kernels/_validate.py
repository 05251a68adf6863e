"""validate(): is this provider right on this case?

The check that every test, benchmark and acceptance stage stands on. It is made to be hard to fool:
outputs are poisoned and fenced, inputs are fenced and compared with their fences afterwards, fresh
data is put under the same pointers, and the result is held against the reference in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from aimills_kernels import _dispatch
from aimills_kernels._op import Case, Op, Problem, Provider, as_tuple, map_tensors, span, tensors_of
from aimills_kernels._registry import get_op
from aimills_kernels._tolerance import Judgement
from aimills_kernels._words import shown

FENCE = 512  # elements of poison on each side of a tensor
# One for each launch: NaN in every float dtype (-1 as an integer), an ordinary number (48.6 as f32,
# 48.5 as bf16, 3.13 as f16), and a large one: what a kernel takes over from its output shows.
_POISON_BYTES = (0xFF, 0x42, 0x7F)
_POISON_BYTE = _POISON_BYTES[0]
NO_MEMORY = "the device has too little memory for it"
_FENCED_SPAN = 1 << 28  # elements; a longer (sparse) tensor is used as it is
# The buffer with its fences, the output inside it, and its number of elements.
_Output = tuple[Tensor, Tensor, int]


@dataclass
class Validation:
    """The outcome: `ok`, or `failures`, or why it was `skipped`: the provider can't run the case
    here, or it was not given the chance, which is a `gap`."""

    op: str
    case: str
    provider: str
    device: str
    seed: int
    judgements: dict[str, Judgement] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    skipped: str | None = None
    gap: bool = False

    @property
    def ok(self) -> bool:
        return not self.failures and self.skipped is None

    @property
    def used(self) -> float:
        """The largest share of a tolerance that was used; above 1 is a failure."""
        return max((j.used for j in self.judgements.values()), default=0.0)

    def __str__(self) -> str:
        head = f"{self.op} {self.case} {self.provider} on {self.device} (seed {self.seed})"
        if self.skipped is not None:
            return f"{head}: not run: {self.skipped}"
        if self.failures:
            return f"{head}: WRONG: " + "; ".join(self.failures)
        return f"{head}: right, {self.used:.0%} of the tolerance used"


def validate(
    op: str | Op,
    case: str | Case,
    provider: str | Provider,
    *,
    device: str | torch.device = "auto",
    seed: int = 0,
    quick: bool = False,
) -> Validation:
    """Check one provider on one case against the reference in float64.

    Two rounds with different data under the same pointers; in each the outputs start as NaN inside
    a fence and must lie within the op's tolerance afterwards. The fences, the inputs and the gaps
    between their rows must be untouched. The second round is run twice and must agree bit for bit.
    A provider that can't run the case on this device is reported as `skipped`, as is a case for
    which the device has too little memory; an exception of the provider is a failure.

    quick: the first round only, where a launch is slow and goes by the seed alone.
    """
    (result,) = validate_each(op, case, [provider], device=device, seed=seed, quick=quick)
    return result


def validate_each(
    op: str | Op,
    case: str | Case,
    providers: Iterable[str | Provider] | None = None,
    *,
    device: str | torch.device = "auto",
    seed: int = 0,
    quick: bool = False,
) -> Iterator[Validation]:
    """`validate` of several providers of one case (all by default), one after the other.

    Inputs are drawn and the oracle is computed once for all of them. Each provider works on copies
    of its own, and after one that was wrong, which may have written anywhere, both are made anew.
    """
    op = op if isinstance(op, Op) else get_op(op)
    case = case if isinstance(case, Case) else op.case(case)
    chosen = [
        p if isinstance(p, Provider) else op.provider(p)
        for p in (op.all_providers if providers is None else providers)
    ]
    place = _usable(pick_device(device))
    if type(seed) is not int or not 0 <= seed < 2**62:
        raise ValueError(f"validate: seed must be a whole number from 0 to 2^62, got {shown(seed)}")
    trial = _Trial(op, case.on(place.type), place, seed)
    for provider in chosen:
        result = Validation(op.name, case.name, provider.name, str(place), seed)
        _try(trial, provider, result, quick)
        if result.failures:
            trial = _Trial(op, trial.case, place, seed)
        yield result


class _Trial:
    """One case on one device: what the providers are given, and what they should give."""

    def __init__(self, op: Op, case: Case, place: torch.device, seed: int):
        self.op, self.case, self.place, self.seed = op, case, place, seed

    @cached_property
    def args(self) -> tuple:
        """In the layout of the case, with the data of the first round."""
        return self.op.make_inputs(self.case, self.place, self.seed)

    @cached_property
    def rounds(self) -> tuple[_Round, _Round]:
        second = self.op.make_inputs(self.case, self.place, self.seed + 1)
        return _Round(self.op, self.args), _Round(self.op, second)


class Fenced:
    """A copy of a tensor with its strides, in a buffer of poison: what is read beyond it shows as
    NaN, what is written beyond it or into its gaps shows in `whole`.

    A tensor with too long a span for that is `whole` itself, in the copy without its gaps.
    """

    def __init__(self, source: Tensor, *, copy: bool = False):
        length = span(source)
        if length == 0 or length > _FENCED_SPAN:
            self.tensor = self.whole = source.clone() if copy else source
            return
        shift = source.storage_offset() % 16  # keeps an odd alignment odd
        self.whole = source.new_empty(length + 2 * FENCE + 16)
        _bytes(self.whole).fill_(_POISON_BYTE)
        self.tensor = self.whole.as_strided(source.shape, source.stride(), FENCE + shift)
        _overwrite(self.tensor, source)


class _Round:
    """The data of one round, kept apart from what providers are given, and what it should give."""

    def __init__(self, op: Op, args: tuple):
        self.op, self.held = op, [Fenced(t, copy=True) for t in tensors_of(args)]
        self.args = _in_place_of(args, self.held)

    @cached_property
    def oracle(self) -> tuple:
        return self.op.oracle(self.args)

    @cached_property
    def rounded(self) -> tuple:
        """What the reference gives in the op's dtypes."""
        return self.op.results(self.args)

    def put_into(self, given: list[Fenced]) -> None:
        for into, source in zip(given, self.held, strict=True):
            _overwrite(into.whole, source.whole)

    @cached_property
    def written(self) -> frozenset[int]:
        """Which of the tensors the op writes to, by their place among all."""
        mine = [id(t) for t in self.op.written(self.args)]
        return frozenset(i for i, f in enumerate(self.held) if id(f.tensor) in mine)

    def changed(self, given: list[Fenced]) -> Iterator[str]:
        """What was written to that only belongs to the caller."""
        for i, (old, new) in enumerate(zip(self.held, given, strict=True)):
            if i in self.written:
                if old.whole is not old.tensor and not _same_around(old.whole, new):
                    yield f"written beyond an argument that is written to ({_shape(new.tensor)})"
            elif not _same_bits(old.tensor, new.tensor):
                yield f"an input was written to ({_shape(new.tensor)})"
            elif not _same_bits(old.whole, new.whole):
                yield f"written beyond an input or into its gaps ({_shape(new.tensor)})"


def _same_around(old: Tensor, new: Fenced) -> bool:
    """Whether all of a buffer but the tensor in it is as it was."""
    expected, t = old.clone(), new.tensor
    _overwrite(expected.as_strided(t.shape, t.stride(), t.storage_offset()), t)
    return _same_bits(expected, new.whole)


def _in_place_of(args: tuple, held: list[Fenced]) -> tuple:
    """The arguments with these tensors in place of their own."""
    left = iter(held)
    return tuple(map_tensors(lambda _: next(left).tensor, a) for a in args)


def _try(trial: _Trial, provider: Provider, result: Validation, quick: bool) -> None:
    try:
        with _dispatch.on_device(trial.place), _dispatch.without_autocast():
            problem = Problem(trial.op, trial.args, trial.place.type, _dispatch.sm_of(trial.place))
            result.skipped = _dispatch.why_not(provider, problem)
            if result.skipped is None:
                _check(trial, provider, result, quick)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        if not result.failures:  # what was found wrong before stays wrong
            result.skipped, result.gap = NO_MEMORY, True
            result.judgements.clear()
    except Exception as error:  # whatever a kernel or its compiler raises
        result.failures.append(f"{type(error).__name__}: {error}")


def pick_device(device: str | torch.device) -> str | torch.device:
    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def _usable(device: str | torch.device) -> torch.device:
    try:
        place = torch.device(device)
    except (RuntimeError, TypeError, ValueError, OverflowError):
        raise _no_device(device) from None
    if place.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("validate: no CUDA device is usable here; ask for device='cpu'")
    if place.type not in ("cpu", "cuda"):
        raise _no_device(device)
    return place


def _no_device(device: Any) -> ValueError:
    return ValueError(f"validate: device must be 'auto', 'cpu' or 'cuda', got {shown(device)}")


def _check(trial: _Trial, provider: Provider, result: Validation, quick: bool) -> None:
    launch = _dispatch.load(provider)
    given = [Fenced(t) for t in tensors_of(trial.args)]
    args = _in_place_of(trial.args, given)
    outs = [_poisoned(o) for o in as_tuple(trial.op.fake(*args))]
    if provider.workspace is not None:
        launch = _dispatch.raw_launch(provider)
        count = provider.workspace(*args)
        outs.append(_poisoned(torch.empty(count, device=trial.place)))
    made = len(outs) - (provider.workspace is not None)

    def results() -> list[Tensor]:
        return [o for _, o, _ in outs[:made]] or list(trial.op.written(args))

    for round_, poison, label in zip(
        trial.rounds, _POISON_BYTES[:2], ("round 1", "round 2"), strict=True
    ):
        round_.put_into(given)
        _run(launch, args, outs, poison, trial.place)
        result.failures += [f"{label}: {w}" for w in _trespasses(round_, given, outs, poison)]
        _judge(trial.op, round_, results(), result)
        if quick:
            return
    first = [o.clone() for o in results()]
    poison = _POISON_BYTES[2]
    if trial.op.mutates:
        trial.rounds[1].put_into(given)
    _run(launch, args, outs, poison, trial.place)
    result.failures += [f"repeat: {w}" for w in _trespasses(trial.rounds[1], given, outs, poison)]
    for name, a, b in zip(trial.op.outputs, first, results(), strict=True):
        if not _same_bits(a, b):
            result.failures.append(f"{name} differs from run to run on the same inputs")


def _run(
    launch: Callable[..., None], args: tuple, outs: list[_Output], poison: int, place: torch.device
) -> None:
    """One launch on poisoned outputs."""
    for buffer, _, _ in outs:
        _bytes(buffer).fill_(poison)
    launch(tuple(o for _, o, _ in outs), *args)
    if place.type == "cuda":
        torch.cuda.synchronize(place)


def _trespasses(
    round_: _Round, given: list[Fenced], outs: list[_Output], poison: int
) -> Iterator[str]:
    """Everything that a launch must leave alone and did not."""
    yield from round_.changed(given)
    for buffer, out, count in outs:
        fence = _bytes(buffer)
        edge = FENCE * out.element_size()
        inner = count * out.element_size()
        if not bool((fence[:edge] == poison).all() & (fence[edge + inner :] == poison).all()):
            yield f"written outside of the output ({_shape(out)})"


def _judge(op: Op, given: _Round, outs: list[Tensor], result: Validation) -> None:
    for name, tolerance, got, want, own in zip(
        op.outputs, op.tolerance, outs, given.oracle, given.rounded, strict=True
    ):
        if own.shape != got.shape or own.dtype != got.dtype:
            result.failures.append(
                f"{name}: fake says {_shape(got)}, the reference gives {_shape(own)}"
            )
            continue
        judgement = tolerance.judge(got, want, own, given.args)
        kept = result.judgements.get(name)
        if kept is None or judgement.used > kept.used:
            result.judgements[name] = judgement
        if not judgement.ok:
            result.failures.append(f"{name}: {judgement.text}")


def _overwrite(into: Tensor, source: Tensor) -> None:
    """copy_ that also takes expanded tensors, whose elements share memory. By `data`, so that
    `_version`, by which a provider may cache its results, does not tell of it."""
    into = into.data
    for dim, stride in enumerate(into.stride()):
        if stride == 0 and into.shape[dim] > 1:
            into, source = into.narrow(dim, 0, 1), source.narrow(dim, 0, 1)
    into.copy_(source)


def _poisoned(like: Tensor) -> _Output:
    count = like.numel()
    buffer = torch.empty(count + 2 * FENCE, dtype=like.dtype, device=like.device)
    return buffer, buffer[FENCE : FENCE + count].view(like.shape), count


def _bytes(t: Tensor) -> Tensor:
    return t.view(torch.uint8)


def _same_bits(a: Tensor, b: Tensor) -> bool:
    return torch.equal(_bytes(_flat(a)), _bytes(_flat(b)))


def _flat(t: Tensor) -> Tensor:
    """All elements in a row, with stride 1 even where a single one came with another."""
    return t.contiguous().as_strided((t.numel(),), (1,))


def _shape(t: Tensor) -> str:
    return f"{str(t.dtype).removeprefix('torch.')}{list(t.shape)}"


def run_provider(op: Op, provider: Provider, args: tuple) -> tuple[Any, ...]:
    """The outputs of one provider on flat arguments, as a benchmark's peer check needs them."""
    outs = as_tuple(op.fake(*args))
    _dispatch.load(provider)(outs, *args)
    return outs
