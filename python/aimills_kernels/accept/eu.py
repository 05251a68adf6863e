"""The fields of the yearly report of Delegated Regulation (EU) 2024/1364, and what acceptance has
for them: little, which is said field by field. Needs no torch.
"""

from __future__ import annotations

from typing import Any

_JOULES = 3.6e6  # of a kWh
_PARTLY = {
    "P_IT": (
        "installed power demand of the information technology", "kW", "limit_w", 1e3,
        "power limits of the accelerators under test; add servers, storage and network",
    ),
    "E_IT": (
        "energy of the information technology", "kWh", "run_joules", _JOULES,
        "accelerators under test while this run sampled them; the report asks for a year of all "
        "equipment, metered",
    ),
}  # fmt: skip
# Grouped as Annex I and II have them.
_NOT = {
    "E_DC": "energy of the data centre as a whole, and so its power usage effectiveness (PUE)",
    "S_DC, S_CR": "floor areas of the data centre and of its computer rooms",
    "W_IN, W_IN-POT": "water and potable water taken in, and so its water usage effectiveness",
    "E_REUSE, T_WH": "waste heat that is reused, and its temperature",
    "T_IN": "set point of the air at the equipment's intake",
    "CDD": "cooling degree days",
    "E_RES-TOT, E_RES-GOO, E_RES-PPA, E_RES-OS": "renewable energy by its source",
    "C_BtG": "battery capacity offered to the grid",
    "C_SERV, C_STOR": "capacity of servers (by SERT, which knows no accelerators) and storage",
    "B_IN, B_OUT, T_IN, T_OUT (traffic)": "bandwidth and data traffic in and out",
}


def fields(pod: dict[str, Any]) -> list[dict[str, Any]]:
    """`measured`: "partly" or "no"; a value only where each device of the pod has one."""
    made = []
    for field, (title, unit, name, size, note) in _PARTLY.items():
        value = pod[name]
        made.append({
            "field": field, "title": title, "unit": unit,
            "measured": "no" if value is None else "partly",
            "value": None if value is None else round(value / size, 6),
            "note": note if value is not None else "not read on every device; " + note,
        })  # fmt: skip
    return made + [
        {"field": field, "title": title, "unit": None, "measured": "no", "value": None,
         "note": "of the site, not of the accelerators"}
        for field, title in _NOT.items()
    ]  # fmt: skip
