"""`python -m tests.conformance.extract DIRECTORY`: the ids, sections, roles and levels of checklists, as rows.csv.

The checklists are Markdown tables whose first column is the id; only these facts are kept here.
"""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROWS = Path(__file__).with_name("rows.csv")
_ID = re.compile(r"[A-Z]{2,4}-[A-Z0-9]{2,4}-\d{2,3}")


def rows(directory: Path) -> Iterator[tuple[str, str, str, str, str]]:
    """(file, section, id, role, level) in the order of the checklists."""
    for path in sorted(directory.glob("*.md")):
        section = ""
        for line in path.read_text().splitlines():
            if line.startswith("## "):
                section = line[3:].strip()
            cells = [cell.strip() for cell in line.split("|")]
            if len(cells) > 4 and _ID.fullmatch(cells[1]):
                yield path.stem, section, cells[1], cells[2], cells[3]


def main() -> None:
    with ROWS.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("file", "section", "id", "role", "level"))
        writer.writerows(rows(Path(sys.argv[1])))


if __name__ == "__main__":
    main()
