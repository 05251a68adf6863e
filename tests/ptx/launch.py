"""Launching a kernel: arguments in, results out."""

from __future__ import annotations

import ctypes
import math
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.ptx import (  # noqa: F401  (the ops_ modules register their instructions)
    flow,
    grammar,
    ops,
    ops_async,
    ops_atomic,
    ops_compare,
    ops_control,
    ops_cvt,
    ops_data,
    ops_float,
    ops_int,
    ops_matrix,
    ops_mma,
    ops_registers,
    ops_sync,
    ops_warp,
    ops_wgmma,
    races,
    scalars,
    tma,
)
from tests.ptx.bind import Binder
from tests.ptx.counters import Counters
from tests.ptx.errors import BadLaunch, Malformed, Unknown, about
from tests.ptx.machine import Handler, Machine, Shape, check_shape
from tests.ptx.memory import Allocation, Global, Memory
from tests.ptx.parse import Kernel, Variable, parse
from tests.ptx.trace import Tracer
from tests.ptx.undefined import Undefined

SHARED_LIMIT = 227 * 1024
_BUDGET, _BUDGET_OF_WARP = 2_000_000, 200_000  # instructions, where the caller names no number
_MOST_BUDGET = 2_000_000_000
_MOST_WARPS = 1 << 24
_MOST_LOCAL, _MOST_PARAMS = 512 << 10, 32764  # bytes of a thread; of a kernel
_MACHINE_BYTES = 400 << 20  # registers and shared memory of the clusters that run at once


@dataclass
class Result:
    """What a launch did."""

    kernel: Kernel
    executed: np.ndarray  # warps that issued each instruction of kernel.code
    memory: Global
    counters: Counters | None = None
    cubin: bytes | None = None  # the machine code, where it was made too
    ctas: int = 1  # of the grid


def run(
    source: str | Kernel,
    args: Sequence[Any],
    grid: Iterable[int],
    block: Iterable[int] | None = None,
    *,
    kernel: str | None = None,
    cluster: Iterable[int] | None = None,
    shared: int = 0,
    tensors: Sequence[Any] = (),
    tables: Sequence[Any] = (),
    seed: int | None = 0,
    budget: int | None = None,
    check: bool = True,
    count: bool = False,
    tracer: Tracer | None = None,
) -> Result:
    """Runs a kernel. Tensors are written in place.

    args: by position, a tensor (NumPy array or CPU torch tensor), a number, or bytes (a struct
    passed by value). tensors: those whose addresses stand inside such a struct. tables: those of
    `tensors` that hold such addresses themselves; they are read only. shared: bytes of dynamic
    shared memory. seed: the order of warps and of asynchronous operations; None runs warps
    in order. budget: instructions that warps may issue, all together; None goes by the grid. check:
    race and fence checks. count: bytes and bank conflicts too.
    """
    entry = source if isinstance(source, Kernel) else parse(source).kernel(kernel)
    with about(entry.place):
        grammar.check(entry)
        shape = _shape(entry, grid, block, cluster, shared)
        _check_options(seed, budget, check, count, tracer)
        _check_lists(args, tensors)
        memory = Global(seed)
        held = Arguments(memory)
        params = held.pack(entry, args, tensors, tables)
        addresses, static = _addresses(entry, memory)
        local = sum(-(-v.size // 16) * 16 for v in entry.variables.values() if v.space == "local")
        if local > _MOST_LOCAL:
            text = f"{local} bytes of local memory; a thread has {_MOST_LOCAL}"
            raise BadLaunch(text, entry.place)
        check_shape(entry, Shape(shape.grid, shape.block, shape.cluster, static), SHARED_LIMIT)
        size = static + shared
        if size > SHARED_LIMIT:
            text = f"{size} bytes of shared memory; a CTA has {SHARED_LIMIT}"
            raise BadLaunch(text, entry.place)
        left = whole = _budget(entry, shape, budget)
        doubts = bool(flow.doubtful(entry) or local)
        executed = np.zeros(len(entry.code), np.int64)
        result = Result(entry, executed, memory, Counters() if count else None)
        result.ctas = shape.count * shape.cluster_size
        for batch in _batches(entry, shape, size, local, check):
            machine = Machine(entry, shape, batch, seed=seed, budget=left)
            machine.whole_budget = whole
            view = Memory(machine, memory, params, size, local)
            view.shadow = races.Shadow(view) if check else None
            binder = Binder(machine, view, addresses)
            binder.undefined = Undefined(binder) if doubts else None
            ops.link(machine, binder, _watch(binder))
            view.counters = result.counters
            if tracer is not None:
                tracer.attach(machine, view)
            machine.run()
            executed += machine.executed()
            left = machine.budget
        held.give_back()
        return result


def _watch(b: Binder) -> Callable[[int, Handler], Handler]:
    """What stands around each instruction: who touches a wgmma's registers, what is undefined."""
    wgmma, undefined = ops_wgmma.watch(b), b.undefined
    if undefined is None:
        return wgmma
    return lambda pc, run: undefined.wrap(pc, wgmma(pc, run))


def _shape(
    kernel: Kernel,
    grid: Iterable[int],
    block: Iterable[int] | None,
    cluster: Iterable[int] | None,
    shared: int,
) -> Shape:
    def three(name: str, value: Iterable[int]) -> tuple[int, int, int]:
        listed = list(value) if isinstance(value, (Sequence, np.ndarray)) else []
        if not 1 <= len(listed) <= 3 or not all(map(_whole, listed)):
            raise BadLaunch(f"{name} is one to three whole numbers, got {value!r}", kernel.place)
        return tuple([*map(int, listed), 1, 1][:3])  # type: ignore[return-value]

    block = block if block is not None else kernel.block
    if block is None:
        raise BadLaunch("the kernel has no .reqntid, so name its block", kernel.place)
    cluster = cluster if cluster is not None else kernel.cluster or (1, 1, 1)
    if not _whole(shared) or shared < 0:
        raise BadLaunch(f"shared is a number of bytes, got {shared!r}", kernel.place)
    return Shape(three("grid", grid), three("block", block), three("cluster", cluster), int(shared))


def _whole(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _check_lists(args: Any, tensors: Any) -> None:
    for name, value in (("args", args), ("tensors", tensors)):
        if not isinstance(value, (list, tuple)):
            raise BadLaunch(f"{name} is a list or a tuple, got {type(value).__name__}")
    for i, tensor in enumerate(tensors):
        if _view(tensor, f"tensor {i}") is None:
            raise BadLaunch(f"tensors holds tensors only, got {type(tensor).__name__}")


def _check_options(seed: Any, budget: Any, check: Any, count: Any, tracer: Any) -> None:
    for name, value in (("check", check), ("count", count)):
        if not isinstance(value, bool):
            raise BadLaunch(f"{name} is True or False, got {value!r}")
    if tracer is not None and not isinstance(tracer, Tracer):
        raise BadLaunch(f"tracer is a Tracer or None, got {type(tracer).__name__}")
    if seed is not None and (not _whole(seed) or seed < 0):
        raise BadLaunch(f"seed is a whole number from 0 on, or None, got {seed!r}")
    if budget is not None and (not _whole(budget) or budget < 1):
        raise BadLaunch(f"budget is a number of instructions, or None, got {budget!r}")


def _budget(kernel: Kernel, shape: Shape, given: int | None) -> int:
    warps = shape.count * shape.cluster_size * shape.warps
    most = _MOST_WARPS if given is None else given
    if warps > most:
        text = f"grid {shape.grid} of {warps} warps is too large to finish: at most {most}"
        raise BadLaunch(text, kernel.place)
    if given is not None:
        return int(given)
    return min(_BUDGET + _BUDGET_OF_WARP * warps, _MOST_BUDGET)


def _batches(kernel: Kernel, shape: Shape, shared: int, local: int, check: bool) -> Iterable[range]:
    """Clusters that run at once, as many as memory allows."""
    threads = shape.warps * 32 * shape.cluster_size
    shadow = races.cost(kernel, shape) // 16 if check else 0
    # Local memory has a shadow of the same size: which of its bits are undefined.
    one = threads * (4 * len(kernel.registers) + 2 * local)
    one += (2 + shadow) * shared * shape.cluster_size
    many = max(1, min(_MACHINE_BYTES // max(one, 1), 4096 // max(threads // 32, 1), shape.count))
    return [range(i, min(i + many, shape.count)) for i in range(0, shape.count, many)]


def _addresses(kernel: Kernel, memory: Global) -> tuple[dict[str, int], int]:
    """Where each variable lies in its space, and the bytes of static shared memory."""
    found: dict[str, int] = {}
    at = {"shared": 0, "local": 0, "param": 0}
    dynamic = []
    for name, variable in kernel.variables.items():
        if variable.space in ("global", "const"):
            data = variable.initial or bytes(variable.size)
            bytes_, writable = np.frombuffer(data, np.uint8), variable.space == "global"
            found[name] = memory.add(name, bytes_, writable=writable).base
        elif variable.space == "shared" and variable.size == 0:
            dynamic.append(variable)
        else:
            space = variable.space
            at[space] = -(-at[space] // variable.align) * variable.align
            found[name] = at[space]
            at[space] += variable.size
    _point(kernel, memory, found)
    static = at["shared"]
    if dynamic:  # every `extern .shared` begins where the static ones end
        align = max(v.align for v in dynamic)
        static = -(-static // align) * align
        found.update({v.name: static for v in dynamic})
    return found, static


def _point(kernel: Kernel, memory: Global, addresses: dict[str, int]) -> None:
    """Puts the addresses of variables into those that are initialised with them."""
    for variable in kernel.variables.values():
        for pointer in variable.pointers:
            to = kernel.variables.get(pointer.name)
            if to is None or to.space not in ("global", "const"):
                text = f"{variable.name} is initialised with the address of {pointer.name}, which "
                raise Malformed(text + "is no variable in .global or .const", variable.place)
            made = memory.of(addresses[variable.name], variable.size)
            assert made is not None
            value = (addresses[pointer.name] + pointer.offset) % 2**64
            word = np.frombuffer(struct.pack("<Q", value), np.uint8)
            at = made.skew + pointer.at
            made.bytes[at : at + 8] = word
            made.origin = made.bytes[made.skew : made.skew + made.size].copy()


@dataclass(frozen=True)
class View:
    """The bytes [start, end) of this process that a tensor covers. `index` has the places of those
    that belong to it, from `start` on, where others lie between them."""

    start: int
    end: int
    index: np.ndarray | None


@dataclass
class Held:
    """The tensors over the bytes [start, end) of this process."""

    start: int
    end: int
    made: Allocation


class Arguments:
    """The tensors of a launch in global memory. Those that overlap share their bytes, but each has
    addresses of its own: what runs past the end of one does not reach the next."""

    def __init__(self, memory: Global):
        self.memory = memory
        self.held: list[Held] = []
        self.copies: list[tuple[np.ndarray, np.ndarray]] = []  # given bytes, the launch's

    def pack(
        self, kernel: Kernel, args: Sequence[Any], tensors: Sequence[Any] = (),
        tables: Sequence[Any] = (),
    ) -> bytes:  # fmt: skip
        """The bytes of the parameters. `tensors` are pointed to from inside a struct, or from
        inside of one of `tables`."""
        if len(args) != len(kernel.params):
            rest = kernel.params[len(args) :]
            text = f"{kernel.name} takes {len(kernel.params)} arguments, got {len(args)}"
            raise BadLaunch(text, rest[0].place if rest else kernel.place)
        names = [f"argument {i}" for i in range(len(args))]
        names += [f"tensor {i}" for i in range(len(tensors))]
        places = [param.place for param in kernel.params] + [kernel.place] * len(tensors)
        views = []
        for name, arg, place in zip(names, [*args, *tensors], places, strict=True):
            with about(place):
                view = _view(arg, name)
            if view is not None:
                views.append((view, name))
        for some in _overlapping(views):
            self._hold(some)
        for table in tables:
            self._translate(table)
        out = b""
        for param, arg in zip(kernel.params, args, strict=True):
            out = out.ljust(-(-len(out) // param.align) * param.align, b"\0")
            with about(param.place):
                out += self._value(param, arg)
        if len(out) > _MOST_PARAMS:
            text = f"{len(out)} bytes of parameters; a kernel has {_MOST_PARAMS} at most"
            raise BadLaunch(text, kernel.place)
        return out

    def _hold(self, views: list[tuple[View, str]]) -> None:
        """Views that overlap; those from the same byte to the same are one."""
        low, high = views[0][0].start, max(view.end for view, _ in views)
        raw, skew = _bytes_at(low, high - low), low % 256
        bytes_ = np.zeros((skew + len(raw) + 15) // 16 * 16 + 16, np.uint8)
        bytes_[skew : skew + len(raw)] = raw
        self.copies.append((raw, bytes_[skew : skew + len(raw)]))
        spans: dict[tuple[int, int], list[tuple[View, str]]] = {}
        for view, name in views:
            spans.setdefault((view.start, view.end), []).append((view, name))
        for (start, end), some in spans.items():
            first, *others = [name for _, name in some]
            name = " and ".join([first, *(n.removeprefix("argument ") for n in others)])
            place, valid = skew + start - low, None
            if all(view.index is not None for view, _ in some):
                valid = np.zeros(len(bytes_), bool)
                for view, _ in some:
                    valid[place + view.index] = True  # type: ignore[operator]
            data = raw[start - low : end - low]
            made = self.memory.place(name, bytes_, place, data, valid)
            self.held.append(Held(start, end, made))

    def _address(self, view: View) -> int:
        """Of an argument's first byte."""
        for held in self.held:
            if (held.start, held.end) == (view.start, view.end):
                return held.made.base
        raise AssertionError("a tensor that nobody holds")

    def _value(self, param: Variable, arg: Any) -> bytes:
        found = _view(arg, param.name)
        if isinstance(arg, tma.TensorMap) and found is not None:
            if param.size != 128:
                raise BadLaunch(f"{param.name} is no tensor map, got one", param.place)
            try:
                return arg.at(self._address(found))
            except (BadLaunch, Unknown) as error:
                raise type(error)(f"{param.name} is {error}", param.place) from None
        if found is not None:
            if param.array or param.type not in scalars.POINTERS:
                raise BadLaunch(f"{param.name} is no pointer, got a tensor", param.place)
            return struct.pack("<Q", self._address(found))
        packed = scalars.pack(param, arg)
        return self._translated(packed) if isinstance(arg, (bytes, bytearray)) else packed

    def _translate(self, table: Any) -> None:
        """What the launch sees of it, which is not given back."""
        view = _view(table, "a table")
        assert view is not None
        own = (view.start, view.end - view.start)
        found = [i for i, (raw, _) in enumerate(self.copies) if (raw.ctypes.data, len(raw)) == own]
        if not found:
            raise BadLaunch("a table is one of the tensors and shares no bytes with another")
        _, bytes_ = self.copies.pop(found[0])
        bytes_[:] = np.frombuffer(self._translated(bytes_.tobytes()), np.uint8)

    def _translated(self, struct_: bytes) -> bytes:
        """The struct, with the addresses of tensors as they are in this memory."""
        out = bytearray(struct_)
        for at in range(0, len(out) - 7, 8):
            word = int.from_bytes(out[at : at + 8], "little")
            inside = [h for h in self.held if h.start <= word < h.end]
            if inside:  # the view that begins last: a pointer mostly is to a view's first byte
                held = max(inside, key=lambda h: h.start)
                to = held.made.base + word - held.start
                out[at : at + 8] = struct.pack("<Q", to)
        return bytes(out)

    def give_back(self) -> None:
        for raw, bytes_ in self.copies:
            raw[:] = bytes_


def _overlapping(views: list[tuple[View, str]]) -> Iterator[list[tuple[View, str]]]:
    """The views in groups that share bytes, whoever made them: two NumPy views, or a torch tensor
    over an array, do not know of each other."""
    some: list[tuple[View, str]] = []
    high = 0
    for view, name in sorted(views, key=lambda found: found[0].start):
        if some and view.start >= max(high, some[0][0].start + 1):
            yield some
            some, high = [], 0
        some.append((view, name))
        high = max(high, view.end)
    if some:
        yield some


def _bytes_at(address: int, size: int) -> np.ndarray:
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))


def _view(arg: Any, name: str) -> View | None:
    """What a tensor covers; None of anything else."""
    if isinstance(arg, tma.TensorMap):
        arg = arg.data
    if type(arg).__module__.startswith("torch") and hasattr(arg, "untyped_storage"):
        _check_torch(arg, name)
        size = arg.element_size()
        return _strided(arg.data_ptr(), arg.shape, [size * s for s in arg.stride()], size)
    if isinstance(arg, np.ndarray):
        _check_array(arg, name)
        return View(arg.ctypes.data, arg.ctypes.data + arg.nbytes, None)
    return None


def _check_array(array: np.ndarray, name: str) -> None:
    if array.dtype.kind not in "biufc" or not array.dtype.isnative:
        raise BadLaunch(f"{name} is a NumPy array of {array.dtype}, and native numbers go here")
    if not array.flags.c_contiguous:
        raise BadLaunch(f"{name} is a NumPy array that is not contiguous")
    if not array.flags.writeable:
        raise BadLaunch(f"{name} is a NumPy array that can't be written to")


def _check_torch(tensor: Any, name: str) -> None:
    import torch

    if tensor.is_nested or tensor.is_quantized or tensor.is_conj() or tensor.is_neg():
        raise BadLaunch(f"{name} is no plain tensor, but nested, quantized or conjugated")
    if tensor.device.type != "cpu" or tensor.layout != torch.strided:
        layout = str(tensor.layout).removeprefix("torch.")
        raise BadLaunch(f"{name} has to be a strided tensor on the CPU, got {layout} on "
                        f"{tensor.device}")  # fmt: skip
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
        raise BadLaunch(f"{name} is no plain tensor, but a {type(tensor).__name__}")


def _strided(start: int, shape: Sequence[int], strides: Sequence[int], item: int) -> View:
    """The view of elements of `item` bytes; strides in bytes, of which torch has no negative."""
    if not math.prod(shape):
        return View(start, start, None)
    dims = sorted((stride, n) for n, stride in zip(shape, strides, strict=True) if n > 1 and stride)
    extent, dense = item, True
    for stride, n in dims:
        dense &= stride == extent
        extent += (n - 1) * stride
    if dense:
        return View(start, start + extent, None)
    index = np.arange(item)
    for stride, n in dims:
        index = (index[:, None] + np.arange(n) * stride).reshape(-1)
    return View(start, start + extent, index)
