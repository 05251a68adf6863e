"""The attestation: an in-toto statement over the files of a run, in a DSSE envelope.

The statement follows from the folder alone, so that a second key can sign the same one. Needs no
torch and no network.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path, PurePosixPath
from typing import Any

from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import Error, VerificationError

from aimills_kernels.accept import evidence, facts, journal, keys, report
from aimills_kernels.accept.evidence import Pod
from aimills_kernels.accept.schema import schema
from aimills_kernels.harness.record import mistake_in

FILE = evidence.SIGNATURE
PAYLOAD = "application/vnd.in-toto+json"
STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "urn:aimills-kernels:pod-acceptance:1"
TEST = "urn:aimills-kernels:acceptance-test:1"  # of what is no pod's
KEPT = ("verdict", "headline", "exit_code", "hardware", "simulated", "run", "profile", "world",
        "missing", "created", "version", "criteria")  # fmt: skip


class Untrue(Exception):
    """The folder is not what was signed; one sentence."""


# ---- the statement


def statement(folder: Path, pod: Pod, data: dict[str, Any], *, test: bool) -> dict[str, Any]:
    known = {r.path.name: r for r in pod.ranks if r.path is not None}
    journals = [_journal(folder, name, known) for name in journal_files(folder)]
    reports = [_subject(folder, name) for name in report.FILES]
    return {
        "_type": STATEMENT,
        "subject": sorted([*journals, *reports], key=lambda s: str(s["name"])),
        "predicateType": TEST if test else PREDICATE,
        "predicate": {
            **{k: data[k] for k in KEPT},
            "devices": [{k: d[k] for k in ("where", "sku", "uuid")} for d in data["devices"]],
        },
    }


def journal_files(folder: Path) -> list[str]:
    """All that stands in the folder of the journals, whatever it is."""
    under = folder / evidence.FOLDER
    return sorted(
        f"{evidence.FOLDER}/{p.relative_to(under)}" for p in under.rglob("*") if not p.is_dir()
    )


def _journal(folder: Path, name: str, known: dict[str, evidence.Rank]) -> dict[str, Any]:
    made = _subject(folder, name)
    rank = known.get(name.removeprefix(f"{evidence.FOLDER}/"))
    if rank is not None:
        head = journal.head_of(list(rank.entries))
        made["annotations"] = {"head": head, "entries": len(rank.entries)}
    return made


def _subject(folder: Path, name: str) -> dict[str, Any]:
    return {"name": name, "digest": {"sha256": _sha256(folder / name)}}


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def encoded(found: dict[str, Any]) -> bytes:
    return json.dumps(found, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


# ---- what is signed


def no_pod(data: dict[str, Any], pod: Pod) -> str | None:
    """Why this is not a report of pod hardware; None where it is. The journals decide, too."""
    hardware = facts.hardware(pod)
    if facts.SIMULATED in (hardware, data["hardware"]):
        return "it is simulated"
    if facts.CPU in (hardware, data["hardware"]):
        return "it is of a CPU"
    if (hardware, data["hardware"]) != (facts.POD, facts.POD):
        return "what was under test is not known"
    # A GPU that a node should have and has not got measured nothing, and has none.
    if any(not r.begin.get("uuid") and any(r.of("measure")) for r in pod.ranks):
        return "a device that was measured has no UUID"
    return None


def data_of(folder: Path) -> dict[str, Any]:
    path = folder / report.DATA
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        raise ValueError(f"{folder} holds no {report.DATA}") from None
    except (ValueError, RecursionError):
        raise ValueError(f"{path} is no JSON") from None
    if not isinstance(found, dict) or (found.get("kind"), found.get("schema")) != (
        report.KIND,
        report.SCHEMA,
    ):
        raise ValueError(f"{path} is no acceptance report of schema {report.SCHEMA}")
    if said := mistake_in(found, schema(), ""):
        raise ValueError(f"{path} is no acceptance report: {said}")
    return found


# ---- the envelope and what it signs


def written(found: Envelope) -> str:
    return json.dumps(found.to_dict(), indent=1) + "\n"


def envelope(folder: Path) -> Envelope:
    """The one in the file, which stands there in the one form that `written` gives: JSON and base64
    leave room for bytes that no signature covers."""
    path = folder / FILE
    try:
        text = path.read_bytes()
        found = Envelope.from_dict(json.loads(text))
        if written(found).encode() != text:
            raise Untrue(
                f"{path} was changed after the signature, in a byte that it does not cover"
            )
    except (Error, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise Untrue(f"{path} is no signed envelope") from None
    if found.payload_type != PAYLOAD:
        raise Untrue(f"{path} signs a {found.payload_type!r}, not an in-toto statement")
    return found


def signed(found: Envelope, folder: Path, key_path: Path) -> dict[str, Any]:
    """The statement, once a signature of this key on it has been verified."""
    key = keys.verifier(key_path)
    if key.keyid not in found.signatures:
        raise Untrue(f"{folder / FILE} is not signed by the key {key_path}")
    try:
        found.verify([key], 1)
    except VerificationError:
        raise Untrue(
            f"the signature in {folder / FILE} does not match the statement and the key {key_path}"
        ) from None
    return stated(found, folder)


def stated(found: Envelope, folder: Path) -> dict[str, Any]:
    try:
        made = json.loads(found.payload)
        known = made["_type"] == STATEMENT and made["predicateType"] in (PREDICATE, TEST)
        names = {s["name"]: s["digest"]["sha256"] for s in made["subject"]}
        here = all(_is_inside(name) for name in names)
        if known and names and here and made["predicate"]["verdict"]:
            return dict(made)
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise Untrue(f"{folder / FILE} holds no statement of an acceptance")


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts


def beside(made: dict[str, Any], folder: Path) -> list[str]:
    """Files in the folder of which the statement says nothing."""
    known = {FILE, *(s["name"] for s in made["subject"]), *journal_files(folder)}
    there = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir())
    return sorted(name for name in there if name not in known)


def changed(made: dict[str, Any], folder: Path) -> list[str]:
    """How the files differ from those of the statement, a sentence each."""
    known = {s["name"]: s["digest"]["sha256"] for s in made["subject"]}
    found = [
        f"{name} was added after the signature"
        for name in journal_files(folder)
        if name not in known
    ]
    for name, digest in known.items():
        path = folder / name
        if not path.is_file():
            found.append(f"{name} is missing")
        elif _sha256(path) != digest:
            found.append(f"{name} was changed after the signature")
    return found
