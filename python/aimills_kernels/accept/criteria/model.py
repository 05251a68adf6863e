"""What a criteria file says, in SI."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from aimills_kernels.accept import message_sizes, units
from aimills_kernels.accept.metrics import METRICS, PROFILES, is_collective_rate

FLOOR, CEILING, EQUAL, ONE_OF, SAME = "floor", "ceiling", "equal", "one_of", "same"
TESTS = (FLOOR, CEILING, EQUAL, ONE_OF, SAME)


@dataclass(frozen=True)
class Rule:
    """One metric held against one figure.

    test      "floor" and "ceiling" of a quantity; "equal" to a value, "one_of" some; "same" on all
              devices of the pod
    limit     in the metric's unit, or a share of `of`
    warn      the milder limit of a floor or ceiling
    of        what `limit` is a share of: a quantity, or the same device's value of that metric
    gpus      asked where so many GPUs run together: least and most
    nodes     of a collective's rate: on how many nodes these are, one where nothing is said
    size      of a collective's rate: of buffers of so many bytes; where nothing is said, 8 GiB of
              GPUs and the largest that ran of CPUs
    since     the first profile that has to measure the metric; before it, only what was measured
              is judged
    severity  "fail", or "warn" for what an operator should know and nobody is rejected for
    """

    id: str
    metric: str
    test: str
    limit: Any
    source: str
    warn: float | None = None
    of: float | str | None = None
    gpus: tuple[int, int | None] | None = None
    since: str = PROFILES[0]
    severity: str = "fail"
    percent: bool = False
    nodes: tuple[int, int | None] | None = None
    size: int | None = None

    @property
    def unit(self) -> str:
        return METRICS[self.metric].unit

    def absolute(self, limit: Any, reference: float | None = None) -> Any:
        """A limit in the metric's unit; `reference` is what it is a share of."""
        base = self.of if isinstance(self.of, float) else reference
        return limit if base is None else limit * base

    def shown(self, value: Any) -> str:
        return units.show(value, self.unit, share=self.percent and self.of is None)

    def text(self) -> str:
        """The rule in words: "at least 90 % of 2.9 TB/s, warning below 95 %"."""
        if self.test == SAME:
            return "the same on all"
        if self.test == ONE_OF:
            return "one of " + ", ".join(self.shown(v) for v in self.limit)
        if self.test == EQUAL:
            return self.shown(self.limit)
        word, side = ("at least", "below") if self.test == FLOOR else ("at most", "above")
        part = lambda x: units.show(x, "1", share=True) if self.of is not None else self.shown(x)  # noqa: E731
        said = f"{word} {part(self.limit)}"
        if self.of is not None:
            said += f" of {self.of if isinstance(self.of, str) else self.shown(self.of)}"
        if self.size is not None:
            said += f" with {units.show(self.size, 'B')} buffers"
        return said + (f", warning {side} {part(self.warn)}" if self.warn is not None else "")

    def applies_to(self, count: int) -> bool:
        return _within(count, self.gpus or (1, None))

    def spans(self, nodes: int) -> bool:
        """Whether it speaks of work over so many nodes."""
        return not is_collective_rate(self.metric) or _within(nodes, self.nodes or (1, 1))

    def rate(self, entry: Mapping[str, Any], gpu: bool) -> float | None:
        """Of a collective that was measured, at the size that the figure is of."""
        size = self.size or (message_sizes.FIGURES if gpu else None)
        return message_sizes.rate_of(entry, size)


def _within(count: int, bounds: tuple[int, int | None]) -> bool:
    low, high = bounds
    return low <= count and (high is None or count <= high)


@dataclass(frozen=True)
class Outliers:
    """How far a device may be below the median of the pod's devices of its model.

    warn, fail  shares below the median. `fail` counts where the device stands out by `deviations`
                robust standard deviations (1.4826 MAD); `always` whatever the spread is
    least       devices from which a median names one; two devices are only held to each other
    """

    id: str
    metrics: tuple[str, ...]
    warn: float
    fail: float
    always: float
    deviations: float
    least: int
    source: str


@dataclass(frozen=True)
class Criteria:
    """`devices`: the names that the driver tells; empty for a model that nobody has described.

    spec      the name under which `harness.specs` knows the physical peaks; None for none
    unknown   metrics without a rule, each with the reason: the gaps, said aloud
    """

    name: str
    version: str
    title: str
    type: str
    devices: tuple[str, ...]
    spec: str | None
    rules: tuple[Rule, ...]
    outliers: tuple[Outliers, ...]
    unknown: Mapping[str, str]

    @cached_property
    def digest(self) -> str:
        """Of all that it says, however the file was written."""
        said = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(said.encode()).hexdigest()

    def judges(self, sku: str, device: str) -> bool:
        """Whether a device of this name is one of those."""
        if self.type == "cpu":
            return device.partition(":")[0] == "cpu"
        return sku.removeprefix("NVIDIA ") in {d.removeprefix("NVIDIA ") for d in self.devices}
