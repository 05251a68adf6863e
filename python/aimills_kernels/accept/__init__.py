"""Acceptance: is this machine right, and what does it reach? One command, one report.

`check` is one check, `correctness`, `real_input` and `speed` are the stages, `session` runs them
and keeps what they found, `verdict` draws the conclusion, `report` writes it down.
"""
