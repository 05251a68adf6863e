"""Who started this process, and as which of how many: the launch contracts. Needs no torch.

The first that holds is taken: our own parent, torchrun, Slurm's srun, Open MPI's mpirun. Where none
does, this is the only process, and it starts the others (`parent`).
"""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass

WAIT_S = 300.0  # that ranks wait for each other, before one counts as missing
PARENT = "parent"
RUN = "AIMILLS_ACCEPT_RUN"  # set by our own parent: the name of the run
_PORT = 29500


class LaunchError(ValueError):
    """A launcher's variables that do not fit together."""


@dataclass(frozen=True)
class Launch:
    """contract: which one; run: a name that all ranks of a run share, and no other run."""

    contract: str
    rank: int
    world: int
    local_rank: int
    local_world: int
    address: str
    port: int
    run: str
    node: str


def alone(environ: Mapping[str, str], run: str) -> Launch:
    """The only process of a run."""
    return Launch("none", 0, 1, 0, 1, "127.0.0.1", 0, run, node_name(environ))


def find(environ: Mapping[str, str]) -> Launch | None:
    """By the environment; None where no launcher is at work."""
    for contract, names in _CONTRACTS.items():
        rank, world, local_rank, _, sign = names
        if all(environ.get(name) for name in (rank, world, local_rank, sign)):
            found = _launch(environ, contract, names)
            # One task of Slurm's or MPI's on a node of many GPUs: this process starts the others.
            return None if contract in ("slurm", "openmpi") and found.world == 1 else found
    return None


# rank, world, local rank, local world, and what only this launcher sets.
_CONTRACTS: dict[str, tuple[str, str, str, str, str]] = {
    PARENT: ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", RUN),
    "torchrun": ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "TORCHELASTIC_RUN_ID"),
    # A batch script has the task's variables too, but no step.
    "slurm": ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_NTASKS_PER_NODE",
              "SLURM_STEP_ID"),
    "openmpi": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK",
                "OMPI_COMM_WORLD_LOCAL_SIZE", "OMPI_COMM_WORLD_SIZE"),
}  # fmt: skip


def _launch(environ: Mapping[str, str], contract: str, names: tuple[str, ...]) -> Launch:
    rank, world, local_rank = (_number(environ, n) for n in names[:3])
    local_world = _number(environ, names[3]) if names[3] in environ else _local_world(environ)
    if not (rank < world and local_rank < local_world <= world):
        raise LaunchError(
            f"{contract}: rank {rank} of {world}, on its node {local_rank} of {local_world}, "
            f"can't be ({', '.join(names[:4])})"
        )
    address, port = _meeting_place(environ, contract, world == local_world)
    return Launch(contract, rank, world, local_rank, local_world, address, port,
                  _run(environ, contract, address, port), node_name(environ))  # fmt: skip


def _number(environ: Mapping[str, str], name: str) -> int:
    text = environ[name]
    if not re.fullmatch("[0-9]{1,7}", text):
        raise LaunchError(f"{name} is {text!r}, and should be a number")
    return int(text)


def _local_world(environ: Mapping[str, str]) -> int:
    """SLURM_STEP_TASKS_PER_NODE is "8(x2)" or "8,4": the largest stands for the node."""
    said = environ.get("SLURM_STEP_TASKS_PER_NODE") or environ.get("SLURM_TASKS_PER_NODE") or "1"
    return max(int(n) for n in re.findall(r"(?:^|,)\s*([0-9]+)", said) or ["1"])


def _meeting_place(environ: Mapping[str, str], contract: str, one_node: bool) -> tuple[str, int]:
    address, port = environ.get("MASTER_ADDR"), environ.get("MASTER_PORT")
    if not address and contract == "slurm":
        nodes = environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_JOB_NODELIST") or ""
        address = "127.0.0.1" if one_node else first_host(nodes)
    if not address and one_node:
        address = "127.0.0.1"
    if not address:
        raise LaunchError(
            f"{contract}: MASTER_ADDR names no host; set it to that of rank 0, for all ranks"
        )
    if port:
        return address, _number(environ, "MASTER_PORT")
    job = environ.get("SLURM_JOB_ID", "")
    return address, 20000 + int(job) % 20000 if job.isdigit() else _PORT


def first_host(nodes: str) -> str | None:
    """Of Slurm's short form: "gpu[003-006,9],login" gives "gpu003"."""
    found = re.match(r"([^\[,]*)(?:\[([0-9]+)[^\]]*\]([^,]*))?", nodes)
    assert found is not None
    return "".join(part or "" for part in found.groups()) or None


def _run(environ: Mapping[str, str], contract: str, address: str, port: int) -> str:
    if contract == PARENT:
        return environ[RUN]
    elastic = environ.get("TORCHELASTIC_RUN_ID")
    if contract == "torchrun" and elastic not in ("none", None):
        return f"torchrun {elastic}"
    if contract == "slurm":
        return f"slurm {environ.get('SLURM_JOB_ID')}.{environ['SLURM_STEP_ID']}"
    return f"{contract} {environ.get('PMIX_NAMESPACE') or f'{address}:{port}'}"


def node_name(environ: Mapping[str, str]) -> str:
    """A Kubernetes pod is told the name of its node; elsewhere the host's own."""
    name = environ.get("NODE_NAME") or environ.get("SLURMD_NODENAME") or socket.gethostname()
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)
