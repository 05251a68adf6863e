"""Signing a run's folder. Needs no torch and no network."""

from __future__ import annotations

from pathlib import Path

from securesystemslib.dsse import Envelope

from aimills_kernels._files import write_whole
from aimills_kernels.accept import attest, evidence, keys
from aimills_kernels.accept.attest import FILE, PAYLOAD, Untrue
from aimills_kernels.accept.verify import Judge, Result, follows, judged


def sign_folder(
    folder: Path,
    key_path: Path,
    *,
    as_test: bool = False,
    criteria: Path | None = None,
    judge: Judge | None = None,
) -> Path:
    """Sign what stands in `folder`, once its report has been found to follow from its journals.
    A further key adds its signature. ValueError: it can't be signed, and why.

    as_test    sign what is no pod's as a test, by a type of statement of its own
    """
    signer = keys.signer(key_path)
    data = attest.data_of(folder)
    try:
        pod = evidence.read(folder)
    except FileNotFoundError as error:
        raise ValueError(str(error)) from None
    why = attest.no_pod(data, pod)
    if why is not None and not as_test:
        raise ValueError(
            f"{folder}: {why}, so it can't be signed as a pod's; --as-test signs it as a test"
        )
    if why is None and as_test:
        raise ValueError(f"{folder} is of a pod, so --as-test would say less than is true")
    result = Result()
    follows(result, folder, pod, data, lambda: (judge or judged)(pod, data, criteria))
    if found := [*result.untrue, *result.open]:
        raise ValueError(f"not signed: {found[0]}")
    payload = attest.encoded(attest.statement(folder, pod, data, test=why is not None))
    path = folder / FILE
    try:
        found_there = attest.envelope(folder) if path.exists() else Envelope(payload, PAYLOAD, {})
    except Untrue as error:
        raise ValueError(f"{error}: move it away") from None
    if found_there.payload != payload:
        raise ValueError(f"{path} signs something else and is not overwritten: move it away")
    found_there.sign(signer)
    write_whole(path, attest.written(found_there))
    return path
