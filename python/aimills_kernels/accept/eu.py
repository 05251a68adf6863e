"""The fields of the yearly report of Delegated Regulation (EU) 2024/1364, and what acceptance has
for them: little, which is said field by field. Needs no torch.

Symbols, titles, units and points as Annex II of the regulation has them (OJ L, 17.5.2024,
data.europa.eu/eli/reg_del/2024/1364/oj); its subscripts are written on the line.
"""

from __future__ import annotations

from typing import Any

_JOULES = 3.6e6  # of a kWh
_SITE = "of the site, not of the accelerators"
# Point of Annex II, symbol ("" where it has none), title, unit.
_FIELDS = (
    ("1(a)", "PDIT", "installed information technology power demand", "kW"),
    ("1(b)", "SDC", "data centre total floor area", "m²"),
    ("1(c)", "SCR", "data centre computer room floor area", "m²"),
    ("1(d)", "EDC", "total energy consumption", "kWh"),
    ("1(d)", "EDC-BG", "total energy consumption coming from back-up generators", "kWh"),
    ("1(e)", "EIT", "total energy consumption of information technology equipment", "kWh"),
    ("1(f)", "", "electrical grid functions", None),
    ("1(g)", "CBtG", "average battery capacity", "kW"),
    ("1(h)", "WIN", "total water input", "m³"),
    ("1(i)", "WIN-POT", "total potable water input", "m³"),
    ("1(j)", "EREUSE", "waste heat reused", "kWh"),
    ("1(k)", "TWH", "average waste heat temperature", "degC"),
    ("1(l)", "TIN", "average setpoint information technology equipment intake air temperature",
     "degC"),
    ("1(m)", "", "types of refrigerants", None),
    ("1(n)", "CDD", "cooling degree days", "degree-days"),
    ("1(o)", "ERES-TOT", "total renewable energy consumption", "kWh"),
    ("1(p)", "ERES-GOO", "total renewable energy consumption from Guarantees of Origin", "kWh"),
    ("1(q)", "ERES-PPA",
     "total renewable energy consumption from Power Purchasing Agreements", "kWh"),
    ("1(r)", "ERES-OS", "total renewable energy consumption from on-site renewables", "kWh"),
    ("2(a)", "CSERV", "ICT capacity for servers", None),
    ("2(b)", "CSTOR", "ICT capacity for storage equipment", "PB"),
    ("3(a)", "BIN", "incoming traffic bandwidth", "GB/s"),
    ("3(b)", "BOUT", "outgoing traffic bandwidth", "GB/s"),
    ("3(c)", "TIN", "incoming data traffic", "EB"),
    ("3(d)", "TOUT", "outgoing data traffic", "EB"),
)  # fmt: skip
# By point: the sum over the pod, what divides it, and what it is of the whole.
_PARTLY = {
    "1(a)": (
        "limit_w", 1e3,
        "power limits of the accelerators under test; the field asks for the nominal power demand "
        "of all networks, servers and storage (Article 2, point 14)",
    ),
    "1(e)": (
        "run_joules", _JOULES,
        "the accelerators' own counters while this run sampled them; the field asks for a year of "
        "all equipment, metered at the UPS (EN 50600-4-2, category 1)",
    ),
}  # fmt: skip
_NOTES = {"2(a)": "by SERT, which knows no accelerators"}


def fields(pod: dict[str, Any]) -> list[dict[str, Any]]:
    """`measured`: "partly" or "no"; a value only where each device of the pod has one."""
    return [
        {"point": f"Annex II, {point}", "field": symbol, "title": title, "unit": unit,
         **_measured(point, pod)}
        for point, symbol, title, unit in _FIELDS
    ]  # fmt: skip


def _measured(point: str, pod: dict[str, Any]) -> dict[str, Any]:
    if point not in _PARTLY:
        return {"measured": "no", "value": None, "note": _NOTES.get(point, _SITE)}
    name, size, note = _PARTLY[point]
    if pod[name] is None:
        return {"measured": "no", "value": None, "note": "not read on every device; " + note}
    return {"measured": "partly", "value": round(pod[name] / size, 6), "note": note}
