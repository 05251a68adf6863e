"""The signature: what is genuine is found so, and every planted change is found."""

from __future__ import annotations

import base64
import errno
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_public_key,
)

from aimills_kernels.accept import (
    attest,
    evidence,
    journal,
    keys,
    rank,
    report,
    run,
    sign,
    verify,
)
from aimills_kernels.accept.findings import PASS, Finding
from aimills_kernels.accept.launch import Launch
from aimills_kernels.accept.session import Settings
from aimills_kernels.cli import accept, main
from aimills_kernels.cli._errors import UsageError
from aimills_kernels.cli._outcome import tell
from tests import pod_journals
from tests.pod_journals import judged as _judge

ROOT = Path(__file__).resolve().parents[1]


def _ran(folder: Path, ranks: list[list[dict[str, Any]]]) -> Path:
    pod_journals.write(folder, ranks)
    _reported(folder)
    return folder


def _reported(folder: Path) -> None:
    pod = evidence.read(folder)
    report.write(
        report.rendered(pod, pod_journals.judge(pod), pod_journals.CRITERIA), folder
    )  # fmt: skip


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return keys.make(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, pair: tuple[Path, Path]) -> Path:
    ranks = [pod_journals.entries(r, world=2) for r in range(2)]
    folder = _ran(tmp_path_factory.mktemp("signed") / "run", ranks)
    sign.sign_folder(folder, pair[0], judge=_judge)
    return folder


@pytest.fixture
def signed(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "run"))


def _verified(folder: Path, key: Path | None, **more: Any) -> verify.Result:
    return verify.verify(folder, key, judge=_judge, **more)


# ---- what is genuine


def test_a_signed_folder_is_genuine(signed: Path, pair: tuple[Path, Path]) -> None:
    found = _verified(signed, pair[1])
    assert (found.code, found.untrue, found.open) == (0, [], [])
    assert found.headline == "accepted (2 x NVIDIA H200)"
    assert found.said[2].startswith("judged by criteria h200 2026.1 from a file of the operator's")
    assert (len(found.said), found.beside) == (4, [])


def test_statement_is_in_totos_and_the_envelope_dsse(signed: Path, pair: tuple[Path, Path]) -> None:
    """Verified here by hand, with nothing of what made it."""
    envelope = json.loads((signed / attest.FILE).read_text())
    assert {*envelope} == {"payload", "payloadType", "signatures"}
    payload = base64.b64decode(envelope["payload"])
    kind = envelope["payloadType"].encode()
    assert kind == b"application/vnd.in-toto+json"
    pae = b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)
    (signature,) = envelope["signatures"]
    key = load_pem_public_key(pair[1].read_bytes())
    assert isinstance(key, Ed25519PublicKey)
    key.verify(base64.b64decode(signature["sig"]), pae)
    with pytest.raises(InvalidSignature):
        key.verify(base64.b64decode(signature["sig"]), pae + b" ")
    said = json.loads(payload)
    assert said["_type"] == "https://in-toto.io/Statement/v1"
    assert said["predicateType"] == attest.PREDICATE
    subjects = {s["name"]: s for s in said["subject"]}
    assert {*subjects} == {*report.FILES, "journal/node-0-0.jsonl", "journal/node-0-1.jsonl"}
    entries = journal.read(signed / "journal" / "node-0-1.jsonl")
    assert subjects["journal/node-0-1.jsonl"]["annotations"] == {
        "head": journal.head_of(entries), "entries": len(entries),
    }  # fmt: skip
    predicate = said["predicate"]
    assert predicate["verdict"] == "accepted"
    assert predicate["criteria"]["digest"] == pod_journals.CRITERIA.digest
    assert predicate["run"] == "run-17"
    assert [d["uuid"] for d in predicate["devices"]] == [
        f"GPU-0000000{i}-0000-4000-8000" for i in range(2)
    ]


def test_a_rejected_pod_can_be_signed_too(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    folder = _ran(tmp_path / "run", [pod_journals.entries(0, world=2, slow=0.5)])
    sign.sign_folder(folder, pair[0], judge=_judge)
    found = _verified(folder, pair[1])
    assert found.code == 0
    assert found.headline.startswith("rejected")


def test_a_second_key_signs_the_same(signed: Path, pair: tuple[Path, Path], tmp_path: Path) -> None:
    auditor = keys.make(tmp_path / "auditor")
    assert _verified(signed, auditor[1]).code == 1
    sign.sign_folder(signed, auditor[0], judge=_judge)
    assert [_verified(signed, key).code for key in (pair[1], auditor[1])] == [0, 0]


# ---- what was changed

Change = Callable[[Path], None]


def _edit(path: str, old: str, new: str) -> Change:
    def change(folder: Path) -> None:
        text = (folder / path).read_text()
        assert old in text
        (folder / path).write_text(text.replace(old, new, 1))

    return change


def _flip(path: str, place: float) -> Change:
    """One bit of one byte."""

    def change(folder: Path) -> None:
        data = bytearray((folder / path).read_bytes())
        data[int(place * (len(data) - 1))] ^= 1
        (folder / path).write_bytes(bytes(data))

    return change


def _rechained(folder: Path) -> None:
    """By one who knows how the hashes are made, and makes them and the report anew."""
    path = folder / "journal" / "node-0-1.jsonl"
    entries = journal.read(path)
    next(e for e in entries if e.get("metric") == "memory.copy")["value"] = 5e12
    made = pod_journals.chained({k: v for k, v in e.items() if k not in ("n", "prev")}
                                for e in entries)  # fmt: skip
    path.write_text("".join(journal.encoded(e) + "\n" for e in made))
    _reported(folder)


def _resigned(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """The statement changed, the signature left as it is."""
    path = folder / attest.FILE
    envelope = json.loads(path.read_text())
    said = json.loads(base64.b64decode(envelope["payload"]))
    change(said)
    envelope["payload"] = base64.b64encode(attest.encoded(said)).decode()
    path.write_text(json.dumps(envelope, indent=1) + "\n")


def _padded(folder: Path) -> None:
    """The last bits before base64's `=` are none of the signature's."""
    path = folder / attest.FILE
    text = path.read_text()
    at = text.index('=="', text.index('"sig"')) - 1
    place = _BASE64.index(text[at])
    path.write_text(f"{text[:at]}{_BASE64[place ^ 1]}{text[at + 1 :]}")


_BASE64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_JOURNAL = "journal/node-0-1.jsonl"
CHANGES: dict[str, tuple[Change, str]] = {
    **{f"a bit of {name} at {place}": (_flip(name, place), f"{name} was changed")
       for name in (_JOURNAL, *report.FILES) for place in (0.0, 0.5, 1.0)},
    "a digit of a measure": (_edit(_JOURNAL, '"value":4', '"value":9'), "was changed after"),
    "a line cut off": (lambda f: os.truncate(f / _JOURNAL, 4000), "was changed after"),
    "a line torn at the end": (lambda f: (f / _JOURNAL).write_text(
        (f / _JOURNAL).read_text() + '{"half'), "was changed after"),
    "a journal removed": (lambda f: (f / _JOURNAL).unlink(), f"{_JOURNAL} is missing"),
    "a journal added": (lambda f: pod_journals.write(f, [pod_journals.entries(2, world=2)])
                        and None, "journal/node-0-2.jsonl was added"),
    "another file added": (lambda f: (f / "journal" / "note.txt").write_text("") and None,
                           "journal/note.txt was added"),
    "the verdict": (_edit("report.json", '"accepted"', '"rejected"'), "report.json was changed"),
    "the page": (_edit("report.html", "NVIDIA H200", "NVIDIA H300"), "report.html was changed"),
    "a report removed": (lambda f: (f / "junit.xml").unlink(), "junit.xml is missing"),
    "journal and report made anew": (_rechained, "was changed after the signature"),
    "the statement": (lambda f: _resigned(f, lambda s: s["predicate"].update(verdict="x")),
                      "does not match the statement"),
    "the statement's type": (lambda f: _resigned(f, lambda s: s.update(predicateType="x")),
                             "does not match the statement"),
    "the envelope": (lambda f: (f / attest.FILE).write_text("{}") and None, "no signed envelope"),
    "a byte of JSON that nothing covers": (lambda f: (f / attest.FILE).write_text(
        (f / attest.FILE).read_text() + " ") and None, "a byte that it does not cover"),
    "a bit of base64 that decodes to nothing": (lambda f: _padded(f), "it does not cover"),
    "an envelope without an end": (lambda f: (f / attest.FILE).write_text("[" * 10**5) and None,
                                   "no signed envelope"),
    "a line's end": (lambda f: (f / _JOURNAL).write_bytes(
        (f / _JOURNAL).read_bytes().replace(b"\n", b"\r", 1)) and None, "is no entry"),
    "the type of the payload": (_edit(attest.FILE, "in-toto+json", "other+json"),
                                "not an in-toto statement"),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_found(name: str, signed: Path, pair: tuple[Path, Path]) -> None:
    change, says = CHANGES[name]
    change(signed)
    found = _verified(signed, pair[1])
    assert found.code == 1
    assert any(says in text for text in found.untrue), found.untrue
    assert all("\n" not in text for text in found.untrue)


def test_the_signature_of_another_run(
    signed: Path, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    other = _ran(tmp_path / "other", [pod_journals.entries(0, world=1)])
    sign.sign_folder(other, pair[0], judge=_judge)
    shutil.copy(other / attest.FILE, signed / attest.FILE)
    found = _verified(signed, pair[1])
    assert found.code == 1
    assert "journal/node-0-1.jsonl was added after the signature" in " ".join(found.untrue)


def test_a_file_beside_the_signed_ones_is_told(signed: Path, pair: tuple[Path, Path]) -> None:
    (signed / "summary.txt").write_text("all is well")
    found = _verified(signed, pair[1])
    assert (found.code, found.beside) == (0, ["summary.txt"])


@pytest.mark.parametrize("name", ["/etc/hostname", "../../key", 7])
def test_a_statement_of_files_elsewhere_is_none(name: Any, signed: Path) -> None:
    _resigned(signed, lambda s: s["subject"][0].update(name=name))
    found = _verified(signed, None)
    assert "holds no statement of an acceptance" in found.untrue[0]


@pytest.mark.parametrize(
    "change", [{"world": "x"}, {"stages": 1, "ops": 7}, {"seed": "\ud800"}, {"sku": "\ud800"}]
)
def test_journals_of_no_run_are_a_sentence(
    change: dict[str, Any], tmp_path: Path, signed: Path
) -> None:
    """Whole, with hashes that follow: whoever made them knows how."""
    entries = [e | change if e["kind"] == "begin" else e for e in pod_journals.entries(world=2)]
    pod_journals.write(signed, [pod_journals.chained(entries)])
    found = _verified(signed, None)
    assert found.code == 1
    assert re.search(
        "was written by no run|states no whole number|does not follow", found.untrue[-1]
    )
    assert "\n" not in found.untrue[-1]


def test_a_report_is_not_made_of_journals_of_no_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = [e for e in pod_journals.entries(world=1) if e["kind"] in ("begin", "end")]
    entries.insert(1, {**entries[0], "kind": "measure"})
    folder = pod_journals.write(tmp_path / "run", [pod_journals.chained(entries)])
    assert main(["accept", "merge", str(folder)]) == 3
    said = capsys.readouterr().err
    assert f"the journals in {folder} hold was written by no run" in said
    assert said.count("\n") == 1
    assert not (folder / "report.json").exists()


def test_the_key_of_another_does_not_match(signed: Path, tmp_path: Path) -> None:
    other = keys.make(tmp_path / "other")
    found = _verified(signed, other[1])
    assert found.code == 1
    assert "is not signed by the key" in found.untrue[0]


def test_a_signature_under_the_name_of_another_key(
    signed: Path, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    other = keys.make(tmp_path / "other")
    name = keys.verifier(pair[1]).keyid, keys.verifier(other[1]).keyid
    _edit(attest.FILE, *name)(signed)
    assert "does not match" in _verified(signed, other[1]).untrue[0]


@pytest.mark.parametrize("name", ["report.json", "report.html", "junit.xml", "metrics.prom"])
def test_a_signer_who_lies_is_found(
    name: str, tmp_path: Path, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signature is right, and the report does not follow from the journals."""
    folder = _ran(tmp_path / "run", [pod_journals.entries(0, world=1)])
    _edit(name, "H200", "H300")(folder)
    with pytest.raises(ValueError, match=r"not signed: .*does not follow from the journals"):
        sign.sign_folder(folder, pair[0], judge=_judge)
    monkeypatch.setattr(sign, "follows", lambda *args: None)
    sign.sign_folder(folder, pair[0], judge=_judge)
    found = _verified(folder, pair[1])
    assert found.code == 1
    assert any(name in t and "does not follow from the journals" in t for t in found.untrue)


def test_findings_that_the_criteria_do_not_give(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    folder = pod_journals.write(tmp_path / "run", [pod_journals.entries(0, world=1, slow=0.5)])
    kind = [Finding("all", PASS, "pod", "all is well")]
    report.write(report.rendered(evidence.read(folder), kind, pod_journals.CRITERIA), folder)
    found = _verified(folder, None)
    assert found.code == 1
    assert "does not follow from the journals: its 'headline' would be another" in found.untrue[0]


# ---- what can't be verified


def test_what_is_open_is_no_success(signed: Path, pair: tuple[Path, Path]) -> None:
    assert _verified(signed, None).open == ["the signature was not verified: give --key"]
    found = verify.verify(signed, pair[1], judge=lambda *args: "the criteria are not here")
    assert (found.code, found.open) == (2, ["the criteria are not here"])
    (signed / attest.FILE).unlink()
    found = _verified(signed, pair[1])
    assert found.code == 2
    assert "is not signed" in found.open[0]


def test_a_report_of_another_version_is_open(
    tmp_path: Path, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its bytes are those that were signed; another version may write it another way."""
    folder = _ran(tmp_path / "run", [pod_journals.entries(0, world=1, version="0.1")])
    sign.sign_folder(folder, pair[0], judge=_judge)
    monkeypatch.setattr(verify.report.page, "render", lambda *args: "another page")
    found = _verified(folder, pair[1])
    assert found.code == 2
    assert "it was made by 0.1" in found.open[0]


# ---- what can't be signed


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"simulated": True}, "it is simulated"),
        ({"device": "cpu"}, "it is of a CPU"),
        ({"device": "tpu:0"}, "what was under test is not known"),
    ],
)
def test_what_is_no_pods(
    more: dict[str, Any], says: str, tmp_path: Path, pair: tuple[Path, Path]
) -> None:
    folder = _ran(tmp_path / "run", [pod_journals.entries(0, world=1, **more)])
    with pytest.raises(ValueError, match=f"{says}, so it can't be signed as a pod's"):
        sign.sign_folder(folder, pair[0], judge=_judge)
    assert not (folder / attest.FILE).exists()
    sign.sign_folder(folder, pair[0], as_test=True, judge=_judge)
    found = _verified(folder, pair[1])
    assert found.code == 2
    assert "signed as a test" in found.open[0]
    assert _verified(folder, pair[1], as_test=True).code == 0


def test_a_device_without_a_uuid_is_no_pods(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    entries = [{k: v for k, v in e.items() if k != "uuid"} for e in pod_journals.entries(world=1)]
    folder = _ran(tmp_path / "run", [pod_journals.chained(entries)])
    with pytest.raises(ValueError, match="a device that was measured has no UUID"):
        sign.sign_folder(folder, pair[0], judge=_judge)


def test_signing_overwrites_nothing(signed: Path, pair: tuple[Path, Path]) -> None:
    before = (signed / attest.FILE).read_text()
    with pytest.raises(ValueError, match="say less than is true"):
        sign.sign_folder(signed, pair[0], as_test=True, judge=_judge)
    _rechained(signed)
    with pytest.raises(ValueError, match="signs something else and is not overwritten"):
        sign.sign_folder(signed, pair[0], judge=_judge)
    assert (signed / attest.FILE).read_text() == before
    with pytest.raises(ValueError, match="not signed: the criteria are not here"):
        sign.sign_folder(signed, pair[0], judge=lambda *args: "the criteria are not here")


# ---- signed by the run itself


def _plan(folder: Path, key: Path) -> rank.Plan:
    settings = Settings((torch.device("cuda"),), ())
    return rank.Plan(settings, folder, (), criteria="h200", sign=key)


def test_the_run_signs_what_it_made(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    folder = pod_journals.write(tmp_path / "run", [pod_journals.entries(0, world=1)])
    outcome = run._reported(_plan(folder, pair[0]), rank.Stop())
    assert (outcome.signed, outcome.unsigned) == (folder / attest.FILE, "")
    assert verify.verify(folder, pair[1]).code == 0
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    for words in (["merge", str(folder)], ["--resume", "--out", str(folder), "--device", "cpu"],
                  ["--out", str(folder), "--device", "cpu"]):  # fmt: skip
        assert main(["accept", *words]) == 3, words
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before


def test_a_report_that_could_not_be_signed_is_no_success(
    tmp_path: Path, pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = pod_journals.write(tmp_path / "run", [pod_journals.entries(0, device="tpu:0")])
    outcome = run._reported(_plan(folder, pair[0]), rank.Stop())
    assert "what was under test is not known" in outcome.unsigned
    stop = rank.Stop(name="SIGTERM")
    stop.event.set()
    stopped = run._reported(_plan(folder, pair[0]), stop)
    assert stopped.unsigned == "the run was stopped by SIGTERM; --resume goes on"
    assert (folder / "report.json").exists()
    assert tell(replace(outcome, code=0), folder) == 2
    assert tell(replace(outcome, code=1), folder) == 1
    assert "NOT SIGNED: " in capsys.readouterr().out


@pytest.mark.parametrize("where", [["--device", "cpu"], ["--simulate", "h200x1"]])
def test_what_is_no_pods_is_refused_before_the_run(
    where: list[str], tmp_path: Path, pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(["accept", *where, "--sign", str(pair[0]), "--out", str(out)]) == 3
    assert "can't be signed as a pod's" in capsys.readouterr().err
    assert not out.exists()


def test_a_key_is_found_unfit_before_the_run(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    gpu, other = torch.device("cuda", 0), tmp_path / "none.key"
    assert accept._key(str(pair[0]), gpu, None) == pair[0]
    for wrong in (other, pair[1]):
        with pytest.raises(UsageError, match=r"^--sign: .*(can't be read|holds no)"):
            accept._key(str(wrong), gpu, None)
    second = Launch("torchrun", 1, 2, 1, 2, "", 0, "run", "node")
    assert accept._key(str(other), gpu, second) is None, "it makes no report"


def test_a_gpu_that_is_missing_keeps_no_rejection_from_being_signed(
    tmp_path: Path, pair: tuple[Path, Path]
) -> None:
    """It has no UUID and no measures; a rank that died at once has no begin either."""
    gone = [e | {"uuid": None, "sku": "?"} if e["kind"] == "begin" else e
            for e in pod_journals.entries(1, world=3) if e["kind"] in ("begin", "end")]  # fmt: skip
    folder = pod_journals.write(
        tmp_path / "run", [pod_journals.entries(0, world=3), pod_journals.chained(gone)]
    )
    (folder / "journal" / "node-0-2.jsonl").write_text("")
    _reported(folder)
    sign.sign_folder(folder, pair[0], judge=_judge)
    assert _verified(folder, pair[1]).code == 0


# ---- keys


def test_the_private_key_is_for_its_owner_and_never_overwritten(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        private, public = keys.make(tmp_path / "k")
    finally:
        os.umask(old)
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert stat.S_IMODE(public.stat().st_mode) == 0o644
    before = private.read_bytes()
    assert main(["accept", "keygen", str(tmp_path / "k")]) == 3
    private.unlink()
    assert main(["accept", "keygen", str(tmp_path / "k")]) == 3, "the public key is left"
    assert not private.exists()
    assert b"PRIVATE KEY" in before


def test_a_full_disk_leaves_no_half_of_a_pair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    synced: list[int] = []

    def full(handle: int) -> None:
        synced.append(handle)
        if len(synced) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(keys.os, "fsync", full)
    assert main(["accept", "keygen", str(tmp_path / "k")]) == 2
    said = capsys.readouterr().err
    assert f"no keys were made in {tmp_path / 'k'} (No space left on device)" in said
    assert list((tmp_path / "k").iterdir()) == []
    assert main(["accept", "keygen", str(tmp_path / "k")]) == 0


@pytest.mark.parametrize("content", [None, b"", b"no key", "rsa", "public"])
def test_what_is_no_key(content: Any, tmp_path: Path, pair: tuple[Path, Path]) -> None:
    path = tmp_path / "key"
    other = generate_private_key(65537, 2048) if content == "rsa" else None
    for load, says in ((keys.signer, "private key"), (keys.verifier, "public key")):
        if other is not None and says == "private key":
            content = other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        elif other is not None:
            content = other.public_key().public_bytes(
                Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
            )
        elif content == "public":
            content, load = pair[1].read_bytes(), keys.signer
        if content is not None:
            path.write_bytes(content)
        says = "can't be read" if content is None else "holds no"
        with pytest.raises(ValueError, match=says) as caught:
            load(path)
        assert "\n" not in str(caught.value)
        if content == pair[1].read_bytes():
            return


def test_a_key_of_another_size_is_not_read_whole(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """As `/dev/zero` or a checkpoint would end the process. A pipe is a key like any other."""
    huge = tmp_path / "huge"
    huge.write_bytes(bytes(1 << 20))
    for load in (keys.signer, keys.verifier):
        with pytest.raises(ValueError, match="above 65536 bytes"):
            load(huge)
    reads, writes = os.pipe()
    os.write(writes, pair[1].read_bytes())
    os.close(writes)
    assert keys.verifier(Path(f"/dev/fd/{reads}")).keyid == keys.verifier(pair[1]).keyid
    os.close(reads)


# ---- the command line


def test_commands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sign, "judged", _judge)
    monkeypatch.setattr(verify, "judged", _judge)
    folder = _ran(tmp_path / "run", [pod_journals.entries(0, world=1)])
    assert main(["accept", "keygen", str(tmp_path)]) == 0
    key, pub = str(tmp_path / keys.PRIVATE), str(tmp_path / keys.PUBLIC)
    assert main(["accept", "verify", str(folder), "--key", pub]) == 2
    assert main(["accept", "sign", str(folder), "--key", key]) == 0
    capsys.readouterr()
    assert main(["accept", "verify", str(folder), "--key", pub]) == 0
    said = capsys.readouterr().out
    assert "its verdict: accepted (1 x NVIDIA H200)" in said
    assert said.rstrip().endswith("genuine")
    _flip("journal/node-0-0.jsonl", 0.5)(folder)
    assert main(["accept", "verify", str(folder), "--key", pub]) == 1
    assert "NOT GENUINE" in capsys.readouterr().out
    for wrong in (["verify", str(tmp_path / "none")], ["verify", str(folder), "--key", key],
                  ["verify", str(folder), "--criteria", str(tmp_path / "none.toml")],
                  ["sign", str(folder), "--key", pub], ["sign", str(tmp_path), "--key", key],
                  ["sign", str(folder), "--key", key], ["sign", str(folder)]):  # fmt: skip
        assert main(["accept", *wrong]) == 3, wrong
        assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "says"),
    [({"devices": None}, "devices is None, not array"), ({"hardware": "?"}, "'?', not one of"),
     ({"findings": [{}]}, "findings[0] lacks 'rule'"), ({"more": 1}, "unknown field 'more'")],
)  # fmt: skip
def test_a_report_that_is_none_is_a_sentence(
    change: dict[str, Any], says: str, signed: Path, pair: tuple[Path, Path],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    path, where = signed / report.DATA, str(signed)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    for words in (["sign", where, "--key", str(pair[0])], ["diff", where, where]):
        assert main(["accept", *words]) == 3
        said = capsys.readouterr().err
        assert f"{path} is no acceptance report: " in said
        assert says in said
        assert said.count("\n") == 1
    assert main(["accept", "verify", where, "--key", str(pair[1])]) == 1


def test_verification_needs_no_torch(signed: Path, pair: tuple[Path, Path]) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from tests.pod_journals import judged\n"
        "from aimills_kernels.accept import verify\n"
        "verify.judged = judged\n"
        "from aimills_kernels.cli import main\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    argv = ["accept", "verify", str(signed), "--key", str(pair[1])]
    done = subprocess.run([sys.executable, "-c", code, *argv], cwd=ROOT, capture_output=True,
                          text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
