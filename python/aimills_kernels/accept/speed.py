"""Stage: times against peers. A wrong result makes it wrong; a slow one does not: there are no
criteria of speed yet."""

from __future__ import annotations

from aimills_kernels.accept.session import BENCH, NotRun, Session


def run(session: Session) -> str:
    settings = session.settings
    if BENCH in settings.exclude:
        session.skip(NotRun("", BENCH, "excluded by name", "all"))
        return "excluded by name"
    from aimills_kernels.harness import bench

    ops = [op for op in settings.ops if not settings.leaves_out(op)]
    for device in settings.devices:
        with session.progress(f"bench on {device}", None) as step:
            record = bench.run(
                ops=ops,
                tag="accept",
                device=str(device),
                budget_s=settings.budget_s,
                progress=step,
                seed=settings.seed,
                peers=True,
            )
        session.benches.append(record)
        _note(session, record, str(device))
    timed = sum(r["median_us"] is not None for b in session.benches for r in b["rows"])
    if not timed:
        session.skip(NotRun(BENCH, BENCH, "nothing could be timed", "all", gap=True))
    return f"{timed} times taken"


def _note(session: Session, record: dict, device: str) -> None:
    for row in record["rows"]:
        if row["skipped"]:
            what = f"{row['op']} {row['provider']}, timed"
            session.skip(NotRun("", what, row["skipped"], device))
