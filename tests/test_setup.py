"""tools/setup_env.py without network or long work: its sentences, its stamp, its choices."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import interpret

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "tools" / "setup_env.py"


@pytest.fixture(scope="module")
def setup_env():
    spec = importlib.util.spec_from_file_location("setup_env", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["setup_env"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["setup_env"]


@pytest.fixture
def checkout(tmp_path):
    """A miniature of the checkout, as far as the set-up looks at it."""
    for name in ("csrc/a.cpp", "CMakeLists.txt", "pyproject.toml", "tools/setup_env.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    for variant in ("cpu", "cuda"):
        (tmp_path / f"constraints-{variant}.txt").write_text("torch==1\nnumpy==2\n")
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    return tmp_path


@pytest.fixture
def plan(setup_env, checkout):
    def make(**environ):
        base = {"AIMILLS_TORCH": "cpu", "PATH": os.environ["PATH"]}
        return setup_env.make_plan({**base, **environ}, checkout)

    return make


def fake_program(folder: Path, name: str, body: str) -> str:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


# ---- what this machine has


def test_driver_by_its_proc_file(setup_env, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not setup_env.nvidia_driver(tmp_path / "version")
    (tmp_path / "version").write_text("NVRM")
    assert setup_env.nvidia_driver(tmp_path / "version")


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("echo 'GPU 0: NVIDIA H200'", True),
        ("echo 'NVIDIA-SMI has failed' ; exit 9", False),
        ("true", False),
    ],
    ids=["listed", "no-driver", "none"],
)
def test_driver_by_nvidia_smi(setup_env, tmp_path, monkeypatch, body, found):
    fake_program(tmp_path, "nvidia-smi", body)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert setup_env.nvidia_driver(tmp_path / "absent") is found


@pytest.mark.parametrize(
    ("vendor", "kind", "found"),
    [("0x10de", "0x030200", True), ("0x10de", "0x020000", False), ("0x8086", "0x030000", False)],
    ids=["gpu", "nvidia-network-card", "other-vendor"],
)
def test_gpu_on_the_bus(setup_env, tmp_path, vendor, kind, found):
    device = tmp_path / "0000:01:00.0"
    device.mkdir()
    (device / "vendor").write_text(vendor + "\n")
    (device / "class").write_text(kind + "\n")
    assert setup_env.nvidia_gpu_on_bus(tmp_path) is found


def test_variant_follows_the_driver(setup_env, checkout, monkeypatch):
    for driver, variant in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(setup_env, "nvidia_driver", lambda driver=driver: driver)
        made = setup_env.make_plan({}, checkout)
        assert made.constraints.name == f"constraints-{variant}.txt"


def test_nvcc_outside_the_path(setup_env, tmp_path):
    (tmp_path / "bin").mkdir()
    environ = {"PATH": str(tmp_path), "CUDA_HOME": str(tmp_path)}
    assert setup_env.find_nvcc(environ) is None
    nvcc = fake_program(tmp_path / "bin", "nvcc", "true")
    assert setup_env.find_nvcc(environ) == nvcc
    assert setup_env.find_nvcc({**environ, "CUDACXX": "/x/nvcc"}) == "/x/nvcc"


def test_python_is_chosen_by_version(setup_env, tmp_path):
    old = fake_program(tmp_path, "old", "echo 3 9")
    new = fake_program(tmp_path, "new", "echo 3 14")
    good = fake_program(tmp_path, "good", "echo 3 12")
    shim = fake_program(tmp_path, "shim", "echo 'no such version' >&2; exit 127")
    assert setup_env.find_python((old, shim, new, good)) == good
    assert setup_env.find_python((old, shim, new)) == new


def test_no_new_python(setup_env, tmp_path):
    old = fake_program(tmp_path, "old", "echo 3 9")
    with pytest.raises(setup_env.Stop, match=r"newest here is 3\.9: install .*apt install python3"):
        setup_env.find_python((old, str(tmp_path / "absent")))
    with pytest.raises(setup_env.Stop, match="no Python was found"):
        setup_env.find_python((str(tmp_path / "absent"),))


@pytest.mark.parametrize(
    ("answer", "offline", "package"),
    [
        ("1 0 1 1", "0", "python3-venv"),
        ("0 0 1 1", "1", "python3-venv"),
        ("1 1 1 0", "0", "python3-dev"),
        ("1 0 1 1", "1", None),
    ],
    ids=["no-ensurepip", "no-venv", "no-headers", "offline-uses-system-pip"],
)
def test_missing_parts_of_python(setup_env, tmp_path, plan, answer, offline, package):
    python = fake_program(tmp_path, "python", f"echo {answer}")
    missing = setup_env.missing_prerequisites(python, plan(OFFLINE=offline))
    assert list(missing.values()) == ([package] if package else [])


def test_no_compiler(setup_env, tmp_path, plan):
    python = fake_program(tmp_path, "python", "echo 1 1 1 0")
    with pytest.raises(setup_env.Stop) as stop:
        setup_env.check_machine(python, plan(PATH=str(tmp_path)))
    assert str(stop.value).endswith("install with `apt install python3-dev g++`.")
    fake_program(tmp_path, "clang++", "true")
    assert "g++" not in setup_env.missing_prerequisites(python, plan(PATH=str(tmp_path))).values()
    named = plan(PATH=str(tmp_path), CXX="g++-99 -m64")
    assert "g++" in setup_env.missing_prerequisites(python, named).values()


def test_full_disk(setup_env, plan, monkeypatch):
    monkeypatch.setattr(setup_env, "missing_prerequisites", lambda *_: {})
    usage = type("Usage", (), {"free": 2**30})
    monkeypatch.setattr(setup_env.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(setup_env.Stop, match=r"1\.0 GiB free and the set-up needs 4"):
        setup_env.check_machine("python", plan())


# ---- sentences for what fails underneath


@pytest.mark.parametrize(
    ("output", "sentence", "start_over"),
    [
        ("OSError: [Errno 28] No space left on device", "the disk is full", True),
        ("Temporary failure in name resolution", "give OFFLINE=1", False),
        ("ERROR: No matching distribution found for torch==2.13.0+cpu", r"torch==2\.13", False),
        ("#error -- unsupported GNU version! gcc 15", "CUDAHOSTCXX", False),
        ("CMake Error: AIMILLS_CUDA=ON but no CUDA", "install the CUDA toolkit", False),
        ("something else", r"failed as shown above \(log: \.venv/setup\.log\)", False),
    ],
    ids=["disk", "network", "no-wheel", "gcc", "nvcc", "unknown"],
)  # fmt: skip
def test_failures_are_explained(setup_env, plan, output, sentence, start_over):
    stop = setup_env.explain_failure("PyTorch", output, plan())
    with pytest.raises(setup_env.Stop, match=sentence):
        raise stop
    assert stop.start_over is start_over
    assert "\n" not in str(stop)


def test_shown_lines_begin_at_the_first_error(setup_env):
    noise = [f"line {i}" for i in range(100)]
    assert setup_env.telling_lines("\n".join(noise)) == noise[-setup_env.TAIL_LINES :]
    lines = [*noise, "a.cpp:1:2: error: no", *noise]
    assert setup_env.telling_lines("\n".join(lines))[0] == "a.cpp:1:2: error: no"


def test_a_failing_command_ends_in_one_sentence(setup_env, plan, capfd):
    progress = setup_env.Progress(plan(), 1)
    with pytest.raises(setup_env.Stop, match="no package index can be reached"):
        progress.run("PyTorch", ["sh", "-c", "echo 'Network is unreachable' >&2; exit 1"])
    assert "Network is unreachable" in capfd.readouterr().err
    assert "Network is unreachable" in plan().log.read_text()


def test_fallback_index(setup_env, plan):
    progress = setup_env.Progress(plan(), 2)
    progress.run("PyTorch", ["false"], fallback=["sh", "-c", "echo second"])
    assert plan().log.read_text().splitlines()[-1] == "second"
    full = ["sh", "-c", "echo No space left on device; exit 1"]
    with pytest.raises(setup_env.Stop, match="disk is full"):
        progress.run("PyTorch", full, fallback=["true"])


@pytest.mark.parametrize(
    "environ", [{"AIMILLS_TORCH": "rocm"}, {"AIMILLS_CUDA": "maybe"}], ids=["torch", "cuda"]
)
def test_wrong_settings(environ, checkout):
    script = checkout / "tools" / "setup_env.py"  # a copy: the real one would set up for real
    script.write_text(SCRIPT.read_text())
    done = subprocess.run(
        [sys.executable, script], env={**os.environ, **environ}, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("set-up: AIMILLS_")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("python", ["/nonexistent", "", "/bin/ls", "true", "echo True"])
def test_a_python_that_is_none(python, checkout):
    (checkout / "Makefile").write_text((ROOT / "Makefile").read_text())
    (checkout / "tools" / "setup_env.py").write_text("print('set up')")
    make = ["make", "-s", "-C", str(checkout), "setup"]
    environ = {**os.environ, "PYTHON": python}
    done = subprocess.run(make, env=environ, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == ""
    said = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    wanted = "should be a command that runs Python 3.9 or newer."
    assert said == [f"set-up: PYTHON is '{python}' and {wanted}"]
    environ["PYTHON"] = sys.executable
    done = subprocess.run(make, env=environ, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "set up\n")


# ---- the stamp


class Steps:
    """Takes the place of pip and CMake; says which of them ran."""

    def __init__(self, setup_env, monkeypatch):
        self.ran = []
        self.fails = None
        monkeypatch.setattr(setup_env, "find_python", lambda: sys.executable)
        monkeypatch.setattr(setup_env, "check_machine", lambda *_: None)
        monkeypatch.setattr(setup_env.Progress, "run", self.run)

    def run(self, title, *commands, fallback=None):
        if self.fails and self.fails[0] in title:
            raise self.fails[1]
        kind = "pins" if "pinned" in title else title.split()[0]
        if kind == "environment":
            (Path(commands[0][-1]) / "bin").mkdir()
            (Path(commands[0][-1]) / "bin" / "python").symlink_to(sys.executable)
        self.ran.append(kind)

    def of(self, setup_env, plan):
        self.ran = []
        setup_env.set_up(plan)
        return self.ran


@pytest.fixture
def steps(setup_env, monkeypatch, capsys):
    return Steps(setup_env, monkeypatch)


ALL = ["environment", "PyTorch", "pins", "build"]
AGAIN = ["the", "PyTorch", "pins", "build"]


def test_second_call_does_nothing(setup_env, steps, plan, capsys):
    assert steps.of(setup_env, plan()) == ALL
    capsys.readouterr()
    assert steps.of(setup_env, plan()) == []
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("changed", "again"),
    [
        ("csrc/a.cpp", ["build"]),
        ("csrc/new.cu", ["build"]),
        ("CMakeLists.txt", ["build"]),
        ("pyproject.toml", ["build"]),
        ("constraints-cpu.txt", AGAIN),
        ("tools/setup_env.py", AGAIN),
        ("constraints-cuda.txt", []),
        ("kernels.py", []),
    ],
)
def test_a_change_repeats_what_depends_on_it(setup_env, steps, plan, checkout, changed, again):
    steps.of(setup_env, plan())
    path = checkout / changed
    path.write_text((path.read_text() if path.exists() else "") + "numpy==3\n")
    assert steps.of(setup_env, plan()) == again
    assert steps.of(setup_env, plan()) == []


def test_another_nvcc_forgets_the_cmake_cache(setup_env, steps, plan, checkout):
    steps.of(setup_env, plan())
    cache = checkout / "build" / "tag" / "CMakeCache.txt"
    cache.parent.mkdir(parents=True)
    cache.touch()
    assert steps.of(setup_env, plan(CUDACXX="/x/nvcc")) == ["build"]
    assert not cache.exists()


def test_failed_build_repeats_only_the_build(setup_env, steps, plan):
    steps.fails = ("build", setup_env.Stop("no"))
    with pytest.raises(setup_env.Stop):
        steps.of(setup_env, plan())
    steps.fails = None
    assert steps.of(setup_env, plan()) == ["build"]


@pytest.mark.parametrize("step", ["environment", "PyTorch", "pinned"])
def test_interrupted_set_up_starts_over(setup_env, steps, plan, step):
    steps.fails = (step, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        steps.of(setup_env, plan())
    assert not plan().stamp.exists()
    steps.fails = None
    assert steps.of(setup_env, plan()) == ALL


@pytest.mark.parametrize("start_over", [True, False])
def test_failed_set_up_goes_on_or_starts_over(setup_env, steps, plan, start_over):
    steps.fails = ("PyTorch", setup_env.Stop("no", start_over=start_over))
    with pytest.raises(setup_env.Stop):
        steps.of(setup_env, plan())
    assert not plan().stamp.exists()
    steps.fails = None
    assert steps.of(setup_env, plan()) == (ALL if start_over else AGAIN)


def test_someone_elses_environment_is_kept(setup_env, steps, plan):
    plan().python.symlink_to(sys.executable)
    own = plan().venv / "own-file"
    own.touch()
    assert steps.of(setup_env, plan()) == AGAIN
    assert own.exists()


def test_a_moved_checkout_starts_over(setup_env, steps, plan):
    steps.of(setup_env, plan())
    stamp = json.loads(plan().stamp.read_text())
    plan().stamp.write_text(json.dumps({**stamp, "root": "/elsewhere"}))
    assert steps.of(setup_env, plan()) == ALL


def test_a_broken_python_starts_over(setup_env, steps, plan):
    steps.of(setup_env, plan())
    plan().python.unlink()
    plan().stamp.unlink()
    assert steps.of(setup_env, plan()) == ALL


def test_a_damaged_stamp_is_none(setup_env, steps, plan):
    steps.of(setup_env, plan())
    plan().stamp.write_text("{")
    assert steps.of(setup_env, plan()) == AGAIN


# ---- offline


def test_offline_touches_no_network(setup_env, plan):
    env = setup_env.child_environ(plan(OFFLINE="1", PIP_FIND_LINKS="x", PIP_EXTRA_INDEX_URL="y"))
    assert env["PIP_NO_INDEX"] == "1"
    assert env["PIP_CONFIG_FILE"] == os.devnull
    assert not {"PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"} & set(env)


def test_offline_names_what_is_missing(setup_env, plan, monkeypatch, capsys):
    offline = plan(OFFLINE="1")
    monkeypatch.setattr(setup_env, "missing_modules", lambda *_: ["triton", "pytest", "av"])
    with pytest.raises(setup_env.Stop, match="this Python has no triton, pytest: install"):
        setup_env.check_offline(offline, fresh=True)
    monkeypatch.setattr(setup_env, "missing_modules", lambda *_: ["av"])
    monkeypatch.setattr(setup_env, "numpy_version", lambda _: ())
    setup_env.check_offline(offline, fresh=True)
    said = capsys.readouterr().out
    assert "not there: av; decoding of real video will not run" in said
    assert "numpy" not in said


@pytest.mark.parametrize(("version", "told"), [((2, 5), True), ((2, 4), True), ((2, 3), False)])
def test_offline_says_where_numpy_is_too_new(setup_env, plan, monkeypatch, capsys, version, told):
    monkeypatch.setattr(setup_env, "missing_modules", lambda *_: [])
    monkeypatch.setattr(setup_env, "numpy_version", lambda _: version)
    setup_env.check_offline(plan(OFFLINE="1"), fresh=True)
    text = f"numpy is 2.{version[1]}; the tests in Triton's interpreter need one below 2.4 and"
    assert (text in capsys.readouterr().out) is told
    assert setup_env.NUMPY_TOO_NEW == interpret.NUMPY_TOO_NEW


@pytest.mark.parametrize(("said", "version"), [("2.5.0rc1", (2, 5)), ("", ())])
def test_version_of_numpy(setup_env, plan, said, version):
    fake_program(plan().python.parent, "python", f"echo {said}")
    assert setup_env.numpy_version(plan()) == version


def test_missing_modules_are_found_without_an_import(setup_env, plan, checkout):
    plan().python.symlink_to(sys.executable)
    (checkout / "absent_module").mkdir()  # a folder of the checkout is not a package
    assert setup_env.missing_modules(plan(), ("json", "absent_module")) == ["absent_module"]


def test_offline_keeps_to_itself(setup_env, steps, plan, monkeypatch):
    monkeypatch.setattr(setup_env, "check_offline", lambda *_: None)
    monkeypatch.setattr(setup_env, "link_parent", lambda *_: None)
    assert steps.of(setup_env, plan(OFFLINE="1")) == ["environment", "build"]
    assert steps.of(setup_env, plan()) == []  # a forgotten OFFLINE=1 reaches for no network
    assert not plan(OFFLINE="0").offline


def test_a_finished_online_environment_serves_offline(setup_env, steps, plan):
    steps.of(setup_env, plan())
    assert steps.of(setup_env, plan(OFFLINE="1")) == []
