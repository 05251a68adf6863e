"""Collective GEMMs of CUTLASS, built by nvcc from gemm.cu and run on the executor.

Their host side, which fills the kernel's parameters, runs too. It asks the driver for tensor maps;
here it gets those of the executor.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.metadata
import importlib.util
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from tests.ptx import launch, tma
from tests.ptx.parse import Kernel, parse

SOURCE = Path(__file__).parent / "gemm.cu"
CACHE = Path(__file__).parents[3] / "build" / "ptx-cutlass"
_FLAGS = ("-std=c++17", "-O2", "-DNDEBUG", "-DCUTLASS_ENABLE_DIRECT_CUDA_DRIVER_CALL", "-w",
          "--expt-relaxed-constexpr", "-gencode", "arch=compute_90a,code=compute_90a", "-shared",
          "-Xcompiler", "-fPIC")  # fmt: skip
# CUtensorMapDataType
_TYPES = ("u8", "u16", "u32", "s32", "u64", "s64", "f16", "f32", "f64", "bf16", None, "tf32")
_ELEMENTS = {
    "bfloat16_t": torch.bfloat16, "half_t": torch.float16, "float_e4m3_t": torch.float8_e4m3fn,
}  # fmt: skip


def headers() -> Path | None:
    """Where the `nvidia-cutlass` wheel has them."""
    found = importlib.util.find_spec("cutlass_library")
    if found is None or not found.submodule_search_locations:
        return None
    return Path(found.submodule_search_locations[0]) / "source"


def build(command: list[str], made: Path) -> None:
    """gemm.ptx and gemm.so into the folder `made`, which is there with both or not at all: other
    processes look for it, and may build it too."""
    made.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=made.parent) as scratch:
        whole = Path(scratch) / "made"
        whole.mkdir()
        done = subprocess.run(
            [*command, "--keep", "--keep-dir", scratch, "-o", str(whole / "gemm.so"), str(SOURCE)],
            capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(done.stderr[-4000:])
        shutil.move(f"{scratch}/gemm.ptx", whole / "gemm.ptx")
        try:
            whole.rename(made)
        except OSError:
            if not made.exists():
                raise


@dataclass(frozen=True)
class Instance:
    """D = A B + 2 C in tiles of M x N x K. layouts: of A and B, as CUTLASS names them."""

    element: str
    out: str
    layouts: tuple[str, str]
    tile: tuple[int, int, int]
    schedule: str

    @property
    def defines(self) -> list[str]:
        m, n, k = self.tile
        values = {
            "IN": self.element, "OUT": self.out, "LAYOUT_A": self.layouts[0],
            "LAYOUT_B": self.layouts[1], "TILE_M": m, "TILE_N": n, "TILE_K": k,
            "SCHEDULE": f"KernelTmaWarpSpecialized{self.schedule}",
        }  # fmt: skip
        return [f"-D{name}={value}" for name, value in values.items()]

    @cached_property
    def folder(self) -> Path:
        """gemm.ptx and gemm.so, built in about two minutes where they are not."""
        source, nvcc = headers(), subprocess.check_output(["nvcc", "--version"])
        release = importlib.metadata.version("nvidia-cutlass")
        key = repr((SOURCE.read_text(), _FLAGS, self.defines, release, nvcc))
        made = CACHE / hashlib.sha256(key.encode()).hexdigest()[:16]
        if made.exists():
            return made
        command = ["nvcc", *_FLAGS, *self.defines, f"-I{source}/include",
                   f"-I{source}/tools/util/include"]  # fmt: skip
        build(command, made)
        return made

    @cached_property
    def ptx(self) -> str:
        return (self.folder / "gemm.ptx").read_text()

    @cached_property
    def kernel(self) -> Kernel:
        return parse(self.ptx).kernel("gemm")

    @cached_property
    def host(self) -> ctypes.CDLL:
        return ctypes.CDLL(str(self.folder / "gemm.so"))

    def operands(self, m: int, n: int, k: int, batches: int) -> list[torch.Tensor]:
        """A [batches, M, K], B [batches, N, K], C and an empty D [batches, M, N]."""
        draw = torch.Generator().manual_seed(m + n + k)
        majors = [layout == major for layout, major in zip(
            self.layouts, ("RowMajor", "ColumnMajor"), strict=True)]  # fmt: skip
        made = []
        for rows, inner in ((m, majors[0]), (n, majors[1])):
            values = torch.randn(batches, rows, k, generator=draw).to(_ELEMENTS[self.element])
            made.append(values if inner else values.mT.contiguous().mT)
        c = torch.randn(batches, m, n, generator=draw).to(_ELEMENTS[self.out])
        return [*made, c, torch.full_like(c, float("nan"))]

    def run(
        self, tensors: Sequence[torch.Tensor], *, sms: int, text: str | None = None, **options
    ) -> launch.Result:
        """Runs the GEMM; text: in place of its own PTX."""
        a, b = tensors[:2]
        shape = (a.shape[1], b.shape[1], a.shape[2], a.shape[0], sms)
        params = ctypes.create_string_buffer(self.host.params_size())
        facts = (ctypes.c_int * 5)()
        pointers = [ctypes.c_void_p(t.data_ptr()) for t in tensors]
        if not self.host.prepare(params, facts, _ENCODE, (ctypes.c_int * 5)(*shape), *pointers):
            raise ValueError(f"CUTLASS does not take {shape}")
        *grid, threads, shared = facts
        return launch.run(
            self.kernel if text is None else parse(text).kernel("gemm"), [params.raw], grid,
            [threads], cluster=(2, 1, 1), shared=shared, tensors=tensors, **options,
        )  # fmt: skip


_WORD = ctypes.c_uint32
_WORDS, _LONGS = ctypes.POINTER(ctypes.c_uint32), ctypes.POINTER(ctypes.c_uint64)


@ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_void_p, _WORD, _WORD, ctypes.c_void_p, _LONGS, _LONGS, _WORDS, _WORDS,
    _WORD, _WORD, _WORD, _WORD,
)  # fmt: skip
def _ENCODE(to, type_, rank, address, dims, strides, box, steps, interleave, swizzle, l2, fill):
    """cuTensorMapEncodeTiled, with the addresses that the tensors have here."""
    tile = tma.Tile(
        address, _TYPES[type_], tuple(dims[:rank]), tuple(strides[: rank - 1]), tuple(box[:rank]),
        tuple(steps[:rank]), interleave, swizzle, fill,
    )  # fmt: skip
    if tile.wrong() is not None:
        return 1  # CUDA_ERROR_INVALID_VALUE
    ctypes.memmove(to, tile.encode(), 128)
    return 0
