"""A checked pass of what is declared is judged as it is where it is timed."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from aimills_kernels._op import as_tuple
from aimills_kernels._registry import get_op
from aimills_kernels.harness import bench, pytest_rows
from aimills_kernels.harness._patience import Late, patience
from aimills_kernels.harness.peers import Peer
from aimills_kernels.harness.pytest_rows import Checked, check_declared
from tests.child_pytest import run_pytest

OP = get_op("attention")


def right(*args: Any) -> Any:
    return OP.reference(*args)


def off(*args: Any) -> Any:
    return tuple(t + 0.5 for t in as_tuple(OP.reference(*args)))


def cannot(*args: Any) -> Any:
    raise NotImplementedError("no such mask\nin this library")


def starved(*args: Any) -> Any:
    raise torch.OutOfMemoryError("CUDA out of memory")


def sleeps(*args: Any) -> Any:
    raise Late("no answer after 1 s")  # as the alarm does


def patches(*args: Any) -> Any:
    time.monotonic = lambda: 0.0  # type: ignore[assignment]
    return OP.reference(*args)


PEERS = [
    *(Peer(f.__name__, f) for f in (right, off, cannot, starved, sleeps, patches)),
    Peer("absent", right, absent="it is not installed"),
]


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Checked]:
    monkeypatch.setattr(pytest_rows, "peers_of", lambda op: PEERS)
    monkeypatch.setattr(pytest_rows, "_held", [])
    return {peer.name: check_declared(OP, "tiny", peer.name) for peer in PEERS}


def test_a_peer_is_judged_and_one_that_can_not_is_told(checked: dict[str, Checked]) -> None:
    assert checked["right"] == Checked()
    assert checked["off"].note is not None
    assert "against float64: " in checked["off"].note
    assert checked["off"].skipped is checked["off"].wrong is None
    assert checked["cannot"] == Checked(skipped="NotImplementedError: no such mask")
    assert checked["starved"] == Checked(wrong="not run: OutOfMemoryError: CUDA out of memory")
    assert checked["sleeps"] == Checked(wrong="TimeoutError: no answer after 1 s")
    assert checked["patches"] == Checked(wrong="it replaced time.monotonic")
    assert checked["absent"] == Checked(skipped="it is not installed")


def test_where_it_is_timed_the_same_is_said(checked: dict[str, Checked]) -> None:
    found = bench.run(
        ops=[OP], cases=["tiny"], providers=[], device="cpu", peers=PEERS, budget_s=0.3,
        measured={"device": "cpu", "spec": None},
    )  # fmt: skip
    rows = {row["provider"]: row for row in found["rows"]}
    assert set(rows) == set(checked)
    for name, row in rows.items():
        said = f"not run: {row['skipped']}" if row["gap"] else row["failure"]
        skipped = None if row["gap"] else row["skipped"]
        assert Checked(skipped, said, row["apart"]) == checked[name], name
    assert rows["off"]["median_us"] is not None
    assert not rows["off"]["validated"]


def test_the_alarm_of_a_step_is_told_from_other_errors() -> None:
    with patience(60.0, print) as at:
        at("a step")
        with pytest.raises(Late, match="no answer after 60 s"):
            signal.raise_signal(signal.SIGALRM)


@pytest.mark.parametrize(
    ("error", "row"), [(Late("late"), "failure"), (RuntimeError("no graph"), "skipped")]
)
def test_a_peer_that_hangs_in_a_capture_fails(
    error: Exception, row: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def capture(cuda: Any) -> None:
        raise error

    monkeypatch.setattr(bench, "_cuda_of", lambda timer: None)
    state: Any = SimpleNamespace(at=lambda name: None, timer=SimpleNamespace(usable=lambda: True))
    found: dict[str, Any] = {}
    peer: Any = SimpleNamespace(name="theirs", peer=True, capture=capture)
    assert not bench._captured(state, peer, found)
    assert found == {row: str(error), "validated": False}


_BENCH = """\
import pytest
from aimills_kernels.harness import pytest_rows
from aimills_kernels._registry import get_op
from tests.test_pytest_rows import PEERS
pytest_rows.peers_of = lambda op: PEERS
@pytest.mark.parametrize("peer", ["right", "off"])
def test_peer(peer, bench_op): bench_op.declared(get_op("attention"), "tiny", peer)
"""


@pytest.mark.full  # two runs of pytest
@pytest.mark.parametrize("more", [[], ["-n", "2"]], ids=len)
def test_it_is_told_at_the_end_by_xdist_too(tmp_path: Path, more: list[str]) -> None:
    (tmp_path / "test_it.py").write_text(_BENCH)
    root = Path(__file__).parent.parent
    run = run_pytest(tmp_path, "-o", f"pythonpath={root}", *more)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "2 passed" in run.stdout
    said = [line for line in run.stdout.splitlines() if "no yardstick" in line]
    assert len(said) == 1
    assert said[0].startswith(
        "beyond the op's tolerance, and no yardstick: attention tiny off: against float64: "
    )
