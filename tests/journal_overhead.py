"""What the journal of a run cost: its entries written again, on the same disk, against its time.

python -m tests.journal_overhead reports/accept
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from aimills_kernels.accept.evidence_folder import RankJournal, journals
from aimills_kernels.accept.journal import read

_ADDED = ("n", "prev", "time", "clock", "kind")


def main(folder: Path) -> None:
    for path in journals(folder):
        entries = read(path)
        with tempfile.TemporaryDirectory(dir=folder) as place:
            journal = RankJournal(Path(place) / "again.jsonl")
            begin = time.perf_counter()
            for entry in entries:
                data = {k: v for k, v in entry.items() if k not in _ADDED}
                journal.append(entry["kind"], **data)
            cost = time.perf_counter() - begin
        ran = entries[-1]["clock"] - entries[0]["clock"]
        print(f"{path.name}: {len(entries)} entries, {1e3 * cost / len(entries):.2f} ms each, "
              f"{100 * cost / ran:.2f} % of {ran:.0f} s")  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]))
