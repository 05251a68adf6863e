"""The video kernel compiles with NVRTC for every architecture, without a GPU and without spills."""

from __future__ import annotations

import re

import pytest

from aimills_kernels.kernels.video import nvrtc as provider
from aimills_kernels.kernels.video.problem import LOADERS

ARCHS = ("80", "90a", "100", "120")


@pytest.fixture(scope="module")
def compiler():
    """cupy.cuda.nvrtc, or a skip that says what is not there."""
    pytest.importorskip("cupy", reason="CuPy is not installed")
    from cupy.cuda import nvrtc

    try:
        nvrtc.getVersion()
    except Exception as error:
        pytest.skip(f"NVRTC can't be loaded: {error}")
    return nvrtc


def compile_cubin(
    nvrtc, arch: str, loader: str, kernel: str = provider.KERNEL
) -> tuple[bytes, str]:
    """The machine code and the assembler's report. The report is read and not the code, because
    NVRTC may be newer than any cuobjdump at hand."""
    program = nvrtc.createProgram(provider.code(kernel), "video.cu", [], [])
    try:
        options = (*provider.options(loader), f"-arch=sm_{arch}", "--ptxas-options=-v")
        nvrtc.compileProgram(program, options)
        return nvrtc.getCUBIN(program), nvrtc.getProgramLog(program)
    except nvrtc.NVRTCError:
        raise AssertionError(nvrtc.getProgramLog(program)) from None
    finally:
        nvrtc.destroyProgram(program)


# Some seconds each: Hopper, which the pods have, and the first loader in `make test`.
GRID = [
    pytest.param(a, n, k, marks=() if (a, n) == ("90a", LOADERS[0]) else pytest.mark.full)
    for k in provider.KERNELS
    for n in LOADERS
    for a in ARCHS
]


@pytest.mark.parametrize(("arch", "loader", "kernel"), GRID)
def test_compiles_without_spills(compiler, arch, loader, kernel):
    cubin, report = compile_cubin(compiler, arch, loader, kernel)
    assert kernel.encode() in cubin
    found = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+)", report)
    assert set(found) == {("0", "0", "0")}, report
    registers, shared = (int(n) for n in re.search(
        r"Used (\d+) registers.* (\d+) bytes smem", report
    ).groups())  # fmt: skip
    assert registers <= 128
    assert shared <= 48 * 1024


def test_source_needs_no_standard_headers():
    csrc = provider.sources()
    seen, todo = set(), [csrc / "video" / f"sm80_{k[:-7]}.cu" for k in provider.KERNELS]
    while todo:
        file = todo.pop()
        text = file.read_text().split("#if !defined(__CUDACC_RTC__)")[0]
        assert not re.findall(r"#include <.*>", text), file
        seen.add(file)
        for name in re.findall(r'#include "(.*)"', text):
            found = [p for p in (csrc / name, csrc / "include" / name) if p.is_file()]
            todo += [p for p in found if p not in seen]
    assert {p.name for p in seen} >= {"tile.h", "pixel.h", "weights.h"}


def test_params_have_the_size_of_the_struct():
    from aimills_kernels.kernels.video import problem
    from aimills_kernels.kernels.video.op import video_to_tensor as op

    extension = pytest.importorskip("aimills_kernels._C")
    args = op.make_inputs(op.case("tiny"), "cpu", 0)
    struct = problem.packed((op.fake(*args),), args)
    extension.VideoParams(struct)
    with pytest.raises(ValueError, match="another size"):
        extension.VideoParams(struct[:-4])


def test_loaders_are_those_of_the_kernel():
    header = (provider.sources() / "video/pixel.h").read_text()
    assert tuple(re.findall(r"return f\((\w+)\{\}\);", header)) == LOADERS


def test_launch_shape_constants_match_the_kernel():
    header = (provider.sources() / "video/tile.h").read_text()
    for name, value in (
        ("kThreads", provider._THREADS),
        ("kTileRows", provider._TILE_ROWS),
        ("kMaxTileCols", provider._TILE_COLS),
    ):
        assert f"constexpr int {name} = {value};" in header
