"""Figures as tables: for a terminal, or as Markdown for docs/benchmarks.md."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.load import Figure


@dataclass
class Table:
    """Rows under a title; every cell is text already."""

    title: str
    heads: tuple[str, ...]
    rows: list[tuple[str, ...]] = field(default_factory=list)

    def add(self, *cells: str) -> None:
        """One more row, printed at once: a long run shows how far it is."""
        self.rows.append(cells)
        print(
            "  " + "  ".join(f"{head} {cell}" if head else cell for head, cell in zip(self.heads, cells, strict=True))
        )

    def text(self) -> str:
        widths = [max(map(len, column)) for column in zip(self.heads, *self.rows, strict=True)]
        lines = [self.title, self._line(self.heads, widths), "  ".join("-" * width for width in widths)]
        return "\n".join(lines + [self._line(row, widths) for row in self.rows])

    def markdown(self) -> str:
        lines = [f"| {' | '.join(self.heads)} |", f"|---{'|---:' * (len(self.heads) - 1)}|"]
        return "\n".join([f"### {self.title}", "", *lines, *(f"| {' | '.join(row)} |" for row in self.rows)])

    @staticmethod
    def _line(cells: tuple[str, ...], widths: list[int]) -> str:
        first, *rest = zip(cells, widths, strict=True)
        return "  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in rest)]).rstrip()


class Results:
    """All tables of a run in the order they were begun, and every figure for `--json`."""

    def __init__(self) -> None:
        self.tables: list[Table] = []
        self.figures: dict[str, Any] = {}

    def table(self, title: str, *heads: str) -> Table:
        print(f"\n{title}", flush=True)
        self.tables.append(Table(title, heads))
        return self.tables[-1]

    def keep(self, name: str, figure: Figure | None) -> None:
        self.figures[name] = asdict(figure) if figure is not None else None


def rate(figure: Figure | None) -> str:
    return "-" if figure is None else f"{figure.per_second:,.0f}"


def spread(figure: Figure) -> str:
    return f"{figure.lowest:,.0f} to {figure.highest:,.0f}"


def milliseconds(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"


def codes(figure: Figure) -> str:
    """The answers, and what went wrong."""
    found = [f"{code}" for code in figure.codes]
    found += [f"{figure.repeats} repeats"] if figure.repeats else []
    found += [f"{figure.failed} failed"] if figure.failed else []
    return ", ".join(found) or "-"
