"""PTX text to instructions. Syntax only: what an instruction means is the handlers' business."""

from __future__ import annotations

import bisect
import functools
import math
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.ptx import initial
from tests.ptx.errors import Line, Malformed, PtxError, Unknown

WIDTH = {
    "b8": 1, "u8": 1, "s8": 1, "e4m3": 1, "e5m2": 1,
    "b16": 2, "u16": 2, "s16": 2, "f16": 2, "bf16": 2, "e4m3x2": 2, "e5m2x2": 2,
    "b32": 4, "u32": 4, "s32": 4, "f32": 4, "f16x2": 4, "bf16x2": 4, "tf32": 4, "u16x2": 4,
    "s16x2": 4,
    "b64": 8, "u64": 8, "s64": 8, "f64": 8, "f32x2": 8,
    "b128": 16, "pred": 0,
}  # fmt: skip


@dataclass(frozen=True)
class Reg:
    """A declared register; `name` is unique in its kernel whatever scope it was declared in."""

    name: str
    type: str


@dataclass(frozen=True)
class Special:
    """A predefined register: %tid.x, %laneid."""

    name: str


@dataclass(frozen=True)
class Imm:
    """An immediate. A float keeps its bits: `kind` is "int", "f32" or "f64"."""

    value: int
    kind: str = "int"

    def __str__(self) -> str:
        if self.kind == "int":
            return str(self.value)
        whole, real = ("<I", "<f") if self.kind == "f32" else ("<Q", "<d")
        return f"{struct.unpack(real, struct.pack(whole, self.value))[0]:.9g}"


@dataclass(frozen=True)
class Sym:
    """A label, or the name of a variable or parameter."""

    name: str


@dataclass(frozen=True)
class Vec:
    """{a, b, c, d}"""

    items: tuple[Operand, ...]


@dataclass(frozen=True)
class Mem:
    """[base + offset], or of a tensor [base, {coordinates}]."""

    base: Operand
    offset: int = 0
    coords: Vec | None = None


@dataclass(frozen=True)
class Pair:
    """a|b: two destinations."""

    first: Operand
    second: Operand


@dataclass(frozen=True)
class Not:
    """!%p"""

    reg: Operand


@dataclass(frozen=True)
class Sink:
    """_: a destination that nobody wants."""


Operand = Reg | Special | Imm | Sym | Vec | Mem | Pair | Not | Sink


@dataclass(frozen=True, eq=False)
class Instr:
    """One instruction. `parts` are the opcode's words: ("ld", "global", "v4", "b32")."""

    op: str
    parts: tuple[str, ...]
    args: tuple[Operand, ...]
    guard: tuple[Reg, bool] | None  # register, negated
    line: int
    text: str

    def has(self, word: str) -> bool:
        return word in self.parts

    @functools.cached_property
    def types(self) -> tuple[str, ...]:
        return tuple(p for p in self.parts[1:] if p in WIDTH)


@dataclass(frozen=True)
class Variable:
    """A variable in .shared, .local, .global or .const, or a parameter."""

    name: str
    space: str
    align: int
    size: int  # bytes; 0 for `extern .shared x[]`
    initial: bytes | None = None
    type: str = "b8"
    pointers: tuple[initial.Pointer, ...] = ()  # parts of `initial` that the launch fills in
    place: Line | None = None

    @property
    def array(self) -> bool:
        return self.size != WIDTH[self.type]


@dataclass(eq=False)
class Kernel:
    name: str
    params: list[Variable]
    code: list[Instr] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)  # to an index of `code`
    tables: dict[str, list[str]] = field(default_factory=dict)  # .branchtargets: labels
    registers: dict[str, Reg] = field(default_factory=dict)
    variables: dict[str, Variable] = field(default_factory=dict)
    block: tuple[int, int, int] | None = None  # .reqntid
    max_threads: int | None = None  # .maxntid
    min_ctas: int | None = None  # .minnctapersm
    max_registers: int | None = None  # .maxnreg
    cluster: tuple[int, int, int] | None = None  # .reqnctapercluster
    target: str = "sm_90a"
    place: Line | None = None


@dataclass
class Module:
    target: str
    kernels: dict[str, Kernel]
    place: Line  # of its .target

    def kernel(self, name: str | None = None) -> Kernel:
        if not self.kernels:
            raise Malformed("the module has no kernel", self.place)
        first, known = next(iter(self.kernels.values())), ", ".join(self.kernels)
        if name is None and len(self.kernels) == 1:
            return first
        if name is None:
            raise Malformed(f"name one of the module's kernels: {known}", first.place)
        found = self.kernels.get(name)
        if found is None:
            raise Malformed(f"no kernel {name!r}; the module has {known}", first.place)
        return found


_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.S)
# Without a semicolon, and what comes behind may stand on the same line.
_LINE = re.compile(
    r"""\.(?:version\s+\d+\.\d+ | target\s+\w+(?:\s*,\s*\w+)* | address_size\s+\d+
      | file\s+\d+\s*"[^"\n]*"(?:\s*,\s*\d+){0,2}
      | loc(?:\s+\d+){3}(?:\s*,\s*function_name\s+[\w$]+(?:\s*\+\s*\d+)?
          \s*,\s*inlined_at(?:\s+\d+){3})?
    )(?![\w.])""",
    re.X,
)
_TOKEN = re.compile(
    r"""\s*(?:
      (?P<float>0[fF][0-9a-fA-F]{8}\b|0[dD][0-9a-fA-F]{16}\b)
    | (?P<real>-?\d+\.\d*(?:[eE][+-]?\d+)?\b|-?\d+[eE][+-]\d+\b)
    | (?P<int>-?(?:0[xX][0-9a-fA-F]+|0[bB][01]+|\d+)U?\b)
    | (?P<name>[%$A-Za-z_][\w$]*(?:\.[xyzw]\b)?)
    | (?P<punct>[\[\]{}+\-,|!()=:<>])
    )""",
    re.X,
)
_LABEL = re.compile(r"([$%A-Za-z_][\w$.]*)\s*:(?!:)")
_GUARD = re.compile(r"@\s*(!?)\s*(%?[\w$]+)\s*")
_OPCODE = re.compile(r"[a-z][A-Za-z0-9_]*(?:(?:\.|::)[A-Za-z0-9_]+)*")
_VARIABLE = re.compile(
    r"(?:\.align\s+(?P<align>\d+)\s+)?(?:\.v(?P<vector>[24])\s+)?\.(?P<type>\w+)"
    r"(?:\s+\.ptr[^,)]*?)?\s+(?P<name>[%$\w]+)(?P<counts>(?:\s*\[\s*\d*\s*\])*)"
    r"(?:\s*=\s*(?P<init>.+?))?\s*$",
    re.S,
)
_MANY = 1 << 18  # registers that one kernel may declare
_MOST = 1 << 28  # bytes of all variables


def parse(text: str) -> Module:
    """The kernels of a PTX module. Debug sections are passed over."""
    if not isinstance(text, str):
        raise Malformed(f"PTX is a text (str), got {type(text).__name__}")
    blank = _COMMENT.sub(_blank, text)
    target, place = _header(blank)
    blank = _LINE.sub(_blank, blank)
    reader = _Reader(blank, target)
    odd = next((at for at, char in enumerate(blank) if char > "\x7f"), None)
    if odd is not None:
        raise reader.fail(f"{blank[odd]!r} is no character of PTX, which is ASCII", odd)
    kernels: dict[str, Kernel] = {}
    try:
        for name, kernel in reader.module():
            if name in kernels:
                raise Malformed(f"the kernel {name} is there twice", kernel.place)
            kernels[name] = kernel
        return Module(target, kernels, place)
    except PtxError:
        raise
    except Exception as error:  # whatever a text that nobody thought of does to the reader
        raise reader.fail("can't read this") from error


def _blank(found: re.Match[str]) -> str:
    return re.sub(r"[^\n]", " ", found[0])


def _header(text: str) -> tuple[str, Line]:
    """The module's target, where this executor runs it, and its line."""
    found, first = {}, text.lstrip()
    top = Line(text.count("\n", 0, len(text) - len(first)) + 1, first.partition("\n")[0].strip())
    for word in ("target", "version", "address_size"):
        line = re.search(rf"\.{word}[^\S\n]+([\w.]+)[^\n]*", text)
        if line is None:
            raise Malformed(f"the text has no .{word}, so it is no PTX module", top)
        found[word] = line[1], Line(text.count("\n", 0, line.start()) + 1, line[0].strip())
    size, place = found["address_size"]
    if size != "64":
        raise Unknown("addresses have 64 bits here", place)
    target, place = found["target"]
    # A GPU takes the PTX of all before it, and of its own kind only what ends in `a`.
    parts = re.fullmatch(r"sm_(\d+)([af]?)", target)
    if parts is None or int(parts[1]) > 90 or (parts[2] and target != "sm_90a"):
        raise Unknown(f"{target} does not run on sm_90a, which this executor is", place)
    return target, place


class _Reader:
    def __init__(self, text: str, target: str):
        self.text, self.at, self.target = text, 0, target
        self.ends = [m.start() for m in re.finditer("\n", text)]
        self.globals: dict[str, Variable] = {}
        self.fresh = self.bytes = 0
        self.defined: set[str] = set()  # variables of the module, or of the kernel that is read

    # -- text

    def line(self, at: int | None = None) -> int:
        return bisect.bisect_left(self.ends, self.at if at is None else at) + 1

    def place(self, at: int | None = None) -> Line:
        line = self.line(at)
        first = self.ends[line - 2] + 1 if line > 1 else 0
        end = self.ends[line - 1] if line <= len(self.ends) else len(self.text)
        return Line(line, self.text[first:end].strip())

    def fail(self, what: str, at: int | None = None) -> Malformed:
        return Malformed(what, self.place(at))

    def skip(self) -> None:
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1

    def take(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        self.skip()
        found = pattern.match(self.text, self.at)
        if found:
            self.at = found.end()
        return found

    def until(self, end: str) -> str:
        stop = self.text.find(end, self.at)
        if stop < 0:
            raise self.fail(f"{end!r} is missing")
        found, self.at = self.text[self.at : stop], stop + 1
        return found.strip()

    def closing(self) -> None:
        """Passes over a {...} that starts here."""
        depth = 0
        while self.at < len(self.text):
            depth += {"{": 1, "}": -1}.get(self.text[self.at], 0)
            self.at += 1
            if depth == 0:
                return
        raise self.fail("a } is missing")

    # -- module

    def module(self) -> Iterator[tuple[str, Kernel]]:
        while True:
            self.skip()
            if self.at >= len(self.text):
                return
            if found := self.take(re.compile(r"(?:\.visible\s+|\.weak\s+)*\.entry\s+([\w$]+)")):
                yield found[1], self.kernel(found[1])
            elif self.take(re.compile(r"\.section\s+[.\w]+\s*(?=\{)")):
                self.closing()
            elif self.take(re.compile(r"(?:\.(?:visible|extern|weak|common)\s+)*\.func\b")):
                self.function()
            elif found := self.take(
                re.compile(r"(?:\.(?:visible|extern|weak|common)\s+)*\.(shared|global|const)\b")
            ):
                self.variable(self.globals, found[1], extern="extern" in found[0])
            elif self.take(re.compile(r"\.(?:pragma|alias)\b")):
                self.until(";")
            else:
                raise self.fail("no entry, function or variable")

    def function(self) -> None:
        """Functions are passed over: a call to one is an instruction nobody knows."""
        found = re.compile("[{;]").search(self.text, self.at)
        if found is None:
            raise self.fail("the function has no end")
        if found[0] == ";":
            self.at = found.end()
            return
        self.at = found.start()
        self.closing()

    def variable(self, into: dict[str, Variable], space: str, *, extern: bool = False) -> None:
        self.skip()
        at = self.at
        item = self.declared(self.until(";"), space, at)
        if not extern and space != "param":  # every call has a `param0` of its own
            if item.name in self.defined:
                raise self.fail(f"the variable {item.name} is declared twice", at)
            self.defined.add(item.name)
        into[item.name] = item

    def declared(self, text: str, space: str, at: int) -> Variable:
        """The variable that `text`, from `at` on, declares."""
        found = _VARIABLE.match(text.strip())
        if found is None or WIDTH.get(found["type"], 0) == 0:
            raise self.fail(f"can't read the variable {text.strip()!r}", at)
        name, type_, width = found["name"], found["type"], WIDTH[found["type"]]
        shape = [int(n or 0) for n in re.findall(r"\[\s*(\d*)\s*\]", found["counts"])]
        shape += [int(found["vector"])] if found["vector"] else []
        size, align = width * math.prod(shape), int(found["align"] or width)
        self.bytes += size if space in ("global", "const") else 0
        if max(size, self.bytes) > _MOST:
            text = f"{name} has {size} bytes, and all variables of a module {_MOST} at most"
            raise self.fail(text, at)
        if not 0 < align <= 1 << 20:
            raise self.fail(f"{name} is aligned to {align}, and takes 1 to {1 << 20}", at)
        if align & (align - 1):
            raise self.fail(f"{name} is aligned to {align}, which is no power of two", at)
        data, pointers = None, []
        if found["init"]:
            if space not in ("global", "const"):
                raise self.fail(f"{name} in .{space} has an initial value", at)
            try:
                data, pointers = initial.read(found["init"], type_, width, shape)
            except Malformed as error:
                raise self.fail(f"{name}: {error}", at) from None
        return Variable(name, space, align, size, data, type_, tuple(pointers), self.place(at))

    # -- kernel

    def kernel(self, name: str) -> Kernel:
        kernel = Kernel(name, [], target=self.target, place=self.place())
        kernel.variables.update(self.globals)
        if self.take(re.compile(r"\(")):
            kernel.params = list(self.parameters())
        kernel.variables.update({p.name: p for p in kernel.params})
        self.bounds(kernel)
        outer, self.defined = self.defined, set()
        self.body(kernel)
        self.defined = outer
        return kernel

    def parameters(self) -> Iterator[Variable]:
        """Of a kernel, up to the parenthesis behind them."""
        end, names = self.at, set()
        listed = self.until(")")
        for piece in self.text[end : self.at - 1].split(",") if listed else ():
            word = piece.strip()
            end += len(piece) + 1
            at = end - 1 - len(piece.lstrip())
            param = self.declared(word.removeprefix(".param"), "param", at)
            if param.name in names:
                raise self.fail(f"the parameter {param.name} is declared twice", at)
            names.add(param.name)
            yield param

    def bounds(self, kernel: Kernel) -> None:
        pattern = re.compile(r"\.(\w+)((?:\s*,?\s*\d+)*)")
        while not self.take(re.compile(r"\{")):
            found = self.take(pattern)
            if found is None:
                raise self.fail("the kernel has no body")
            numbers = [int(n) for n in re.findall(r"\d+", found[2])]
            shape = tuple([*numbers, 1, 1, 1][:3])
            if found[1] == "reqntid" and numbers:
                kernel.block = shape
            elif found[1] == "maxntid" and numbers:
                kernel.max_threads = shape[0] * shape[1] * shape[2]
            elif found[1] == "minnctapersm" and numbers:
                kernel.min_ctas = numbers[0]
            elif found[1] == "maxnreg" and numbers:
                kernel.max_registers = numbers[0]
            elif found[1] == "reqnctapercluster" and numbers:
                kernel.cluster = shape
            elif found[1] not in ("explicitcluster", "maxclusterrank"):
                raise self.fail(f"can't read .{found[1]}{found[2]}", found.start())

    def body(self, kernel: Kernel) -> None:
        scopes: list[dict[str, str]] = [{}]
        while scopes:
            self.skip()
            if self.take(re.compile(r"\{")):
                self.fresh += 1
                scopes.append(self.labels_ahead())
            elif self.take(re.compile(r"\}")):
                scopes.pop()
                self.fresh += 1
            elif found := self.take(
                re.compile(
                    r"\.(reg|shared|local|param|pragma|branchtargets|callprototype|calltargets)\b"
                )
            ):
                self.directive(kernel, scopes, found[1])
            elif found := self.take(_LABEL):
                own = scopes[-1].setdefault(found[1], found[1])
                if own in kernel.labels:
                    raise self.fail(f"the label {found[1]} is there twice")
                kernel.labels[own] = len(kernel.code)
            elif self.at >= len(self.text):
                raise self.fail(f"the kernel {kernel.name} has no end")
            else:
                kernel.code.append(self.instruction(kernel, scopes))
        for instr in kernel.code:
            for label in _labels(instr, kernel):
                if not isinstance(label, Sym) or label.name not in kernel.labels:
                    raise Malformed(f"{_said(label)} is no label", instr)

    def labels_ahead(self) -> dict[str, str]:
        """The labels of the scope that starts here: a branch may name one before it comes."""
        start = self.at
        self.at -= 1
        self.closing()
        inside, self.at = self.text[start : self.at], start
        names = re.findall(r"(?:^|(?<=[;{}:]))\s*([$%A-Za-z_][\w$.]*)\s*:(?!:)", inside)
        return {name: f"{name}@{self.fresh}" for name in names}

    def unique(self, name: str, scopes: list[dict[str, str]]) -> str:
        return name if len(scopes) == 1 else f"{name}@{self.fresh}"

    def directive(self, kernel: Kernel, scopes: list[dict[str, str]], which: str) -> None:
        if which in ("shared", "local", "param"):
            self.variable(kernel.variables, which)
            return
        start = self.at
        text = self.until(";")
        if which == "branchtargets":
            if not kernel.labels:
                raise self.fail("a .branchtargets without a label", start)
            name, _ = kernel.labels.popitem()
            listed = (label.strip() for label in text.split(","))
            kernel.tables[name] = [scopes[-1].get(label, label) for label in listed]
        if which != "reg":
            return
        found = re.match(r"\.(\w+)\s+(.*)$", text, re.S)
        if found is None or found[1] not in WIDTH:
            raise self.fail(f"can't read the registers {text!r}")
        for name in (n.strip() for n in found[2].split(",")):
            many = re.match(r"(%?[\w$]+)<(\d+)>$", name)
            if many and len(kernel.registers) + int(many[2]) > _MANY:
                raise self.fail(f"{name}: more than {_MANY} registers", start)
            names = [f"{many[1]}{i}" for i in range(int(many[2]))] if many else [name]
            for one in names:
                own = self.unique(one, scopes)
                if one in scopes[-1]:
                    raise self.fail(f"the register {one} is declared twice", start)
                scopes[-1][one] = own
                kernel.registers[own] = Reg(own, found[1])

    def instruction(self, kernel: Kernel, scopes: list[dict[str, str]]) -> Instr:
        start, line = self.at, self.line()
        guard = self.take(_GUARD)
        op = self.take(_OPCODE)
        if op is None:
            raise self.fail("no instruction")
        rest_at = self.at
        rest = self.until(";")
        text = " ".join(self.text[start : self.at].split())
        try:
            who = None if guard is None else (_name(guard[2], kernel, scopes), guard[1] == "!")
            # Of a call nothing is read: who launches another kernel of the module may not care.
            args = () if op[0].startswith("call") else tuple(_Operands(rest, kernel, scopes).all())
        except Malformed as error:
            self.at = rest_at
            raise self.fail(str(error)) from None
        if who is not None and not isinstance(who[0], Reg):
            raise self.fail(f"the guard {guard[2]} is no register")  # type: ignore[index]
        parts = tuple(op[0].split("."))
        return Instr(op[0], parts, args, who, line, text)  # type: ignore[arg-type]


def _labels(instr: Instr, kernel: Kernel) -> list[Operand | None]:
    """Where a branch may go."""
    if instr.parts[0] == "bra":
        return [instr.args[0] if instr.args else None]
    if instr.parts[0] != "brx":
        return []
    table = instr.args[1] if len(instr.args) == 2 else None
    if not isinstance(table, Sym) or table.name not in kernel.tables:
        return [table]
    return [Sym(name) for name in kernel.tables[table.name]]


def _said(operand: Operand | None) -> str:
    """In one line: a name that a comma is missing from goes over two."""
    return " ".join(getattr(operand, "name", "nothing").split())


def _name(name: str, kernel: Kernel, scopes: list[dict[str, str]]) -> Operand:
    if name == "_":
        return Sink()
    for scope in reversed(scopes):
        if name in scope:
            own = scope[name]
            return kernel.registers[own] if own in kernel.registers else Sym(own)
    if name in kernel.variables or not name.startswith("%"):
        return Sym(name)
    return Special(name)


class _Operands:
    """The operands of one instruction."""

    def __init__(self, text: str, kernel: Kernel, scopes: list[dict[str, str]]):
        self.kernel, self.scopes = kernel, scopes
        self.tokens: list[tuple[str, str]] = []
        at = 0
        while at < len(text.rstrip()):
            found = _TOKEN.match(text, at)
            if found is None:
                raise Malformed(f"can't read {text[at:].strip()!r}")
            self.tokens.append((found.lastgroup or "", found[0].strip()))
            at = found.end()
        self.at = 0

    def peek(self) -> str:
        return self.tokens[self.at][1] if self.at < len(self.tokens) else ""

    def take(self, *wanted: str) -> str:
        if self.at >= len(self.tokens) or (wanted and self.peek() not in wanted):
            got = repr(self.peek()) if self.peek() else "the end"
            some = " or ".join(map(repr, wanted)) or "an operand"
            raise Malformed(f"expected {some}, got {got}")
        self.at += 1
        return self.tokens[self.at - 1][1]

    def all(self) -> Iterator[Operand]:
        if not self.tokens:
            return
        while True:
            first = self.one()
            if self.peek() == "|":
                self.take("|")
                first = Pair(first, self.one())
            yield first
            if self.at == len(self.tokens):
                return
            self.take(",")

    def one(self) -> Operand:
        token = self.peek()
        if token == "{":
            return self.vector()
        if token == "[":
            return self.memory()
        if token == "!":
            self.take("!")
            return Not(self.one())
        if token == "-":
            self.take("-")
            value = self.one()
            if not isinstance(value, Imm) or value.kind != "int":
                raise Malformed("a minus before something that is no integer")
            return Imm(-value.value)
        return self.atom()

    def atom(self) -> Operand:
        kind = self.tokens[self.at][0] if self.at < len(self.tokens) else ""
        token = self.take()
        if kind == "int":
            return Imm(initial.integer(token))
        if kind == "float":
            return Imm(int(token[2:], 16), "f32" if token[1] in "fF" else "f64")
        if kind == "real":
            return Imm(struct.unpack("<Q", struct.pack("<d", float(token)))[0], "f64")
        if kind != "name":
            raise Malformed(f"{token!r} is no operand")
        return _name(token, self.kernel, self.scopes)

    def vector(self) -> Vec:
        self.take("{")
        items = []
        while self.peek() != "}":
            items.append(self.one())
            if self.peek() != "}":
                self.take(",")
        self.take("}")
        return Vec(tuple(items))

    def memory(self) -> Mem:
        self.take("[")
        base, offset, coords = self.one(), 0, None
        if self.peek() in ("+", "-"):
            sign = self.take("+", "-")
            value = self.one()
            if not isinstance(value, Imm):
                raise Malformed("an address's offset is no integer")
            offset = value.value if sign == "+" else -value.value
        elif self.at < len(self.tokens) and self.tokens[self.at][0] == "int":
            offset = initial.integer(self.take())  # "[%r1-4]", read as a name and a negative number
        if self.peek() == ",":
            self.take(",")
            coords = self.vector()
        self.take("]")
        return Mem(base, offset, coords)
