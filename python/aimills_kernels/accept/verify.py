"""Whether a folder is what was signed, and whether its report follows from its journals. Offline,
without torch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aimills_kernels._version import __version__
from aimills_kernels.accept import attest, evidence, facts, report
from aimills_kernels.accept.attest import Untrue
from aimills_kernels.accept.evidence import Pod
from aimills_kernels.accept.findings import Finding
from aimills_kernels.accept.journal import Damaged
from aimills_kernels.accept.judged import NO_RUN, no_run

TRUE, UNTRUE, OPEN = 0, 1, 2
# What gives the findings and the criteria of a pod, or the sentence why it can't.
Judge = Callable[[Pod, dict[str, Any], Path | None], "tuple[Sequence[Finding], Any] | str"]


@dataclass
class Result:
    """`untrue` makes it 1, `open` 2; `said` is what was found in order."""

    untrue: list[str] = field(default_factory=list)
    open: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    headline: str = ""
    beside: list[str] = field(default_factory=list)  # files of which the signature says nothing

    @property
    def code(self) -> int:
        return UNTRUE if self.untrue else OPEN if self.open else TRUE


def verify(
    folder: Path,
    key: Path | None = None,
    *,
    criteria: Path | None = None,
    as_test: bool = False,
    judge: Judge | None = None,
) -> Result:
    """Hold signature, files, journals and report against each other. ValueError: no such folder or
    key.

    criteria   the file that it was judged by, where this installation has not got it
    as_test    take a test's attestation for what it is
    """
    result = Result()
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}")
    made = _signature(result, folder, key, as_test)
    try:
        pod = evidence.read(folder)
    except (Damaged, FileNotFoundError) as error:
        result.untrue.append(str(error))
        return result
    result.said.append(f"{len(pod.ranks)} journals are whole, their hashes follow")
    try:
        data = attest.data_of(folder)
    except ValueError as error:
        result.untrue.append(str(error))
        return result
    result.headline = str(data.get("headline"))
    if made is not None and not result.untrue:
        test = made["predicateType"] == attest.TEST
        if attest.statement(folder, pod, data, test=test) != made:
            text = f"{folder / attest.FILE} states what the files in {folder} do not say"
            result.untrue.append(text)
        elif not test and (why := attest.no_pod(data, pod)):
            result.untrue.append(f"{folder} is signed as a pod's, and {why}")
    follows(result, folder, pod, data, lambda: (judge or judged)(pod, data, criteria))
    return result


def _signature(
    result: Result, folder: Path, key: Path | None, as_test: bool
) -> dict[str, Any] | None:
    """The statement, verified where a key is given."""
    if not (folder / attest.FILE).exists():
        if key is not None:
            attest.keys.verifier(key)
        result.open.append(f"{folder} is not signed: it holds no {attest.FILE}")
        return None
    try:
        found = attest.envelope(folder)
        if key is None:
            made = attest.stated(found, folder)
            result.open.append("the signature was not verified: give --key")
        else:
            made = attest.signed(found, folder, key)
            result.said.append(f"the signature is that of {key}")
        result.untrue += [f"{folder}: {text}" for text in attest.changed(made, folder)]
        result.beside = attest.beside(made, folder)
    except Untrue as error:
        result.untrue.append(str(error))
        return None
    if made["predicateType"] == attest.TEST and not as_test:
        what = made["predicate"].get("hardware")
        result.open.append(f"it was signed as a test ({what}), so it is no pod's: see --as-test")
    return made


def follows(
    result: Result, folder: Path, pod: Pod, data: dict[str, Any], found: Callable[[], Any]
) -> None:
    """The report made anew, against the files."""
    try:
        files = _made_anew(result, pod, found())
    except (ValueError, *NO_RUN) as error:
        result.untrue.append(no_run(folder, error))
        return
    made_by = str(pod.ranks[0].begin.get("version"))
    for name in reversed(files):
        path = folder / name
        here = path.read_bytes() if path.is_file() else None
        if here == files[name].encode():
            continue
        if here is None:
            result.untrue.append(f"{path} is missing")
            continue
        why = _first_difference(data, json.loads(files[name])) if name == report.DATA else ""
        text = f"{path} does not follow from the journals{why}"
        if made_by != __version__:
            text += f" as version {__version__} reads them; it was made by {made_by}"
            result.open.append(text)
        else:
            result.untrue.append(text)
    if not result.untrue and not result.open:
        result.said.append("the report follows from the journals")


def _made_anew(result: Result, pod: Pod, found: Any) -> dict[str, str]:
    """The report's files; none where the reason why not is told instead."""
    if isinstance(found, str):
        result.open.append(found)
        return {}
    findings, criteria = found
    result.said.append(f"judged by {facts.criteria_named(report.criteria_of(pod, criteria))}")
    return report.rendered(pod, findings, criteria)


def _first_difference(here: dict[str, Any], made: dict[str, Any]) -> str:
    for key in made:
        if here.get(key) != made[key]:
            return f": its {key!r} would be another"
    more = [key for key in here if key not in made]
    return f": they say nothing of its {more[0]!r}" if more else ": it is written in another form"


def judged(
    pod: Pod, data: dict[str, Any], path: Path | None
) -> tuple[Sequence[Finding], Any] | str:
    """By the criteria that the report names, if they are here and the same."""
    from aimills_kernels.accept import criteria
    from aimills_kernels.accept.judged import findings_of

    named = data.get("criteria") or {}
    written = pod.ranks[0].begin.get("criteria_file")
    if path is None and written and Path(written).is_file():
        path = Path(written)
    why = "the report could not be held against the journals: "
    try:
        known = criteria.load(path or str(named.get("name")))
    except ValueError as error:
        return why + str(error)
    if known.digest != named.get("digest"):
        digest = str(named.get("digest"))[:12]
        return (
            f"{why}the criteria {known.name} here are not those that it names (sha256 {digest}…), "
            "which --criteria can give"
        )
    return findings_of(pod, known), known
