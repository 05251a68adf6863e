"""What the journal of a run cost, as each rank took its time, against the time of the run.

python -m tests.journal_overhead reports/accept
"""

from __future__ import annotations

import sys
from pathlib import Path

from aimills_kernels.accept.evidence_folder import journals
from aimills_kernels.accept.journal import read


def main(folder: Path) -> None:
    for path in journals(folder):
        entries = read(path)
        cost, ran = entries[-1].get("journal_s"), entries[-1]["clock"] - entries[0]["clock"]
        if cost is None:
            print(f"{path.name}: its run did not come to its end")
            continue
        print(f"{path.name}: {len(entries)} entries, {1e3 * cost / len(entries):.2f} ms each, "
              f"{100 * cost / ran:.2f} % of {ran:.0f} s")  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]))
