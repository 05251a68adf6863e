"""Why a GPU's clocks are low, as bits of one mask. Needs no torch."""

# Clocks event reasons (NVML's older name: throttle reasons). They are bits of one mask and come in
# company, so each is looked at on its own.
REASONS = {
    "gpu_idle": 0x1,
    "applications_clocks_setting": 0x2,
    "sw_power_cap": 0x4,
    "hw_slowdown": 0x8,
    "sync_boost": 0x10,
    "sw_thermal_slowdown": 0x20,
    "hw_thermal_slowdown": 0x40,
    "hw_power_brake_slowdown": 0x80,
    "display_clock_setting": 0x100,
    "board_limit": 0x200,
    "reliability": 0x400,
}
UNKNOWN = "unknown"
# Each by its mask, and as one any bit that has no name here: NVML's mask has 64.
BITS = {**REASONS, UNKNOWN: ((1 << 64) - 1) & ~sum(REASONS.values())}
