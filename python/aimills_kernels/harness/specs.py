"""What makers promise of a GPU, in one table. Needs no torch.

No honest measurement crosses these lines, and no criterion may ask for more.
"""

from __future__ import annotations

# Dense peaks without sparsity, TFLOP/s (int8: TOP/s), and memory GB/s, from NVIDIA's data sheets of
# H100 (2023), H200 (2024), A100 (2021), L40S (2023), HGX B200 and GB200 (2025), which print most
# tensor rates with sparsity, twice these. Watts of the board; `peer`: GB/s between GPUs, both
# directions, by all NVLinks together, or by PCIe where the GPU has none; `host`: GB/s to the host
# in one direction, by PCIe or by NVLink-C2C; size: GiB of memory. `clock`: MHz, the largest SM
# clock (nvidia-smi -q, Max Clocks), which was not read from one here. By the driver's name; the
# first that is contained wins.
_HOPPER = {"f32": 66.9, "tf32": 494.7, "f16": 989.4, "fp8": 1978.9, "int8": 1978.9}
_SPECS: tuple[tuple[str, dict[str, float]], ...] = (
    ("H100 PCIe", {"f32": 51.2, "tf32": 378.0, "f16": 756.5, "fp8": 1513.0, "int8": 1513.0,
                   "size": 80.0, "copy": 2039.0, "power": 350.0, "host": 63.0}),
    ("H100 NVL", {"f32": 60.0, "tf32": 417.5, "f16": 835.5, "fp8": 1671.0, "int8": 1671.0,
                  "size": 94.0, "copy": 3938.0, "power": 400.0, "host": 63.0}),
    ("H100 80GB HBM3", {**_HOPPER, "size": 80.0, "copy": 3352.0, "power": 700.0,
                        "peer": 900.0, "host": 63.0, "clock": 1980.0}),
    ("H200 NVL", {"f32": 60.0, "tf32": 417.5, "f16": 835.5, "fp8": 1671.0, "int8": 1671.0,
                  "size": 141.0, "copy": 4800.0, "power": 600.0, "host": 63.0}),
    ("H200", {**_HOPPER, "size": 141.0, "copy": 4800.0, "power": 700.0, "peer": 900.0,
              "host": 63.0, "clock": 1980.0}),
    ("A100-SXM4-80GB", {"f32": 19.5, "tf32": 156.0, "f16": 312.0, "int8": 624.0, "size": 80.0,
                        "copy": 2039.0, "power": 400.0, "peer": 600.0, "host": 31.5,
                        "clock": 1410.0}),
    ("A100 80GB PCIe", {"f32": 19.5, "tf32": 156.0, "f16": 312.0, "int8": 624.0, "size": 80.0,
                        "copy": 1935.0, "power": 300.0, "host": 31.5}),
    ("A100", {"f32": 19.5, "tf32": 156.0, "f16": 312.0, "int8": 624.0, "size": 40.0,
              "copy": 1555.0}),
    ("L40S", {"f32": 91.6, "tf32": 183.0, "f16": 362.05, "fp8": 733.0, "int8": 733.0,
              "size": 48.0, "copy": 864.0, "power": 350.0, "peer": 63.0, "host": 31.5,
              "clock": 2520.0}),
    ("GB200", {"f32": 80.0, "tf32": 1250.0, "f16": 2500.0, "fp8": 5000.0, "int8": 5000.0,
               "size": 186.0, "copy": 8000.0, "power": 1200.0, "peer": 1800.0, "host": 450.0,
               "clock": 2062.0}),
    ("B200", {"f32": 80.0, "tf32": 1125.0, "f16": 2250.0, "fp8": 4500.0, "int8": 4500.0,
              "size": 180.0, "copy": 8000.0, "power": 1000.0, "peer": 1800.0, "host": 63.0,
              "clock": 1965.0}),
)  # fmt: skip

# Of the board's power: with random data, as acceptance multiplies, none reaches its peak on less.
ENERGY_POWER = 0.5

# A bus bandwidth of a collective that the switch sums passes that of one direction.
_METRICS: dict[str, tuple[tuple[str, ...], float]] = {
    "copy": (("memory.copy", "memory.read", "memory.write", "memory.copy_hot"), 1e9),
    "size": (("gpu.memory",), 2.0**30),
    "f32": (("gemm.f32",), 1e12),
    "tf32": (("gemm.tf32",), 1e12),
    "f16": (("gemm.f16", "gemm.bf16", "burn.rate"), 1e12),
    "fp8": (("gemm.fp8",), 1e12),
    "int8": (("gemm.int8",), 1e12),
    "power": (("power.limit", "burn.power", "power.idle"), 1.0),
    "host": (("link.h2d", "link.d2h"), 1e9),
    "clock": (("clock.max", "burn.clock"), 1e6),
    "peer": (
        ("collective.all_reduce", "collective.all_gather", "collective.reduce_scatter",
         "collective.all_to_all"),
        1e9,
    ),
}  # fmt: skip


def of(name: str | None) -> dict[str, float] | None:
    """The table's row of a GPU by its driver's name; None for one that isn't known."""
    for part, peaks in _SPECS:
        if name and part in name and "MIG" not in name:
            return peaks
    return None


def peaks(name: str | None) -> dict[str, float]:
    """The physical peak of each metric of acceptance that has one, in the metric's unit."""
    row = of(name) or {}
    found = {
        metric: row[key] * factor
        for key, (metrics, factor) in _METRICS.items()
        if key in row
        for metric in metrics
    }
    if "peer" in row:
        found["link.p2p"] = row["peer"] / 2 * 1e9
    if "power" in row:
        found["energy.gemm"] = row["f16"] * 1e12 / (ENERGY_POWER * row["power"])
    return found
