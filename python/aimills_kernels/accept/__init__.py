"""Acceptance: is this machine right, and what does it reach? One command, one report.

`check` and `calls` are single checks; `correctness`, `real_input`, `shapes` and `speed` are the
stages; `session` runs them and keeps what they found; `verdict` draws the conclusion; `report` and
`page` write it down.
"""
