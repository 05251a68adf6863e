"""The stages of the library's own ops: correctness, a decoded video, real shapes, times."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

from aimills_kernels.accept import correctness, png, real_input, shapes, speed
from aimills_kernels.accept.context import Context, StageSpec
from aimills_kernels.accept.session import Session
from aimills_kernels.harness._patience import patience


def _of_session(run: Callable[[Session], str], *, here: bool) -> Callable[[Context], str]:
    """As a stage of the contract: what the session keeps to itself goes into the journal.

    here    the stage calls kernels in this process, so that its steps need an end
    """

    def work(ctx: Context) -> str:
        session: Session = ctx.options["session"]
        session.seconds, session.profile = ctx.seconds, ctx.profile
        shown, counted = len(session.pictures), {id(n): n.count for n in session.not_run}
        limit = session.settings.timeout_s if here else None
        try:
            with _steps(session, limit, ctx.options["hung"]):
                return run(session)
        finally:
            with ctx.journal.gathered():
                for entry in session.not_run:
                    if count := entry.count - counted.get(id(entry), 0):
                        row = {**asdict(entry), "count": count}
                        ctx.journal.append("not_run", stage=ctx.stage, **row)
            _show(ctx, session, shown)

    return work


@contextlib.contextmanager
def _steps(session: Session, limit: float | None, hung: Callable[[str], None]) -> Iterator[None]:
    """A step that takes longer than `limit` is an error; `hung` is told of one that can't be
    interrupted, and the process ends with it."""
    before = session.progress
    with patience(limit, hung) as at:

        @contextlib.contextmanager
        def progress(text: str, total: int | None = None) -> Iterator[Callable[..., None]]:
            with before(text, total) as step:

                def both(label: str, *more: Any) -> None:
                    at(label)
                    step(label, *more)

                yield both

        session.progress = progress
        try:
            yield
        finally:
            session.progress = before


def _show(ctx: Context, session: Session, shown: int) -> None:
    """The clip, and of each size of picture the first; of one rank, as those of others look alike.
    A page shows no more."""
    if len(session.pictures) == shown or (ctx.group is not None and ctx.group.rank):
        return
    ctx.event("clip", f"a clip of {session.clip.get('frames')} frames", **session.clip)
    sizes = set()
    for caption, levels in session.pictures[shown:]:
        if levels.shape not in sizes:
            sizes.add(levels.shape)
            height, width = levels.shape[:2]
            ctx.event("picture", caption, data=png.data_uri(levels), height=height, width=width)


STAGES: tuple[StageSpec, ...] = (
    StageSpec.of("correctness", _of_session(correctness.run, here=False), bounded=False),
    StageSpec.of("video", _of_session(real_input.run, here=True), bounded=False),
    StageSpec.of("shapes", _of_session(shapes.run, here=True), bounded=False),
    StageSpec.of("bench", _of_session(speed.run, here=False), bounded=False),
)
