"""A test names the rows it shows with `@pytest.mark.rows("SIG-MIT-005", ...)`; an id that does not exist is an error.

`pytest --conformance` prints, for each section, how many rows have a passing test. A row whose tests do not all pass
does not count.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, cast

import pytest

from tests.conformance.extract import ROWS


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--conformance", action="store_true", help="print rows covered and passing per section")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_KEY] = _Tally()
    config.pluginmanager.register(_Listener(config.stash[_KEY]))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    known = {row["id"] for row in _catalogue()}
    for item in items:
        for row in _rows_of(item):
            if row not in known:
                raise pytest.UsageError(f"{item.nodeid} names {row}, which is no row of the checklists")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """The report carries the rows, for it may be another process that tallies them."""
    outcome: Any = yield
    outcome.get_result().user_properties.append((_ROWS, _rows_of(item)))


class _Listener:
    """Hears the reports of all processes that run tests."""

    def __init__(self, tally: _Tally) -> None:
        self._tally = tally

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            rows = [row for name, value in report.user_properties if name == _ROWS for row in cast(list[str], value)]
            self._tally.note(rows, passed=report.outcome == "passed" and report.when == "call")


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if config.getoption("--conformance"):
        for line in config.stash[_KEY].lines():
            terminalreporter.write_line(line)


class _Tally:
    """Rows seen in this run, and those of which any test failed."""

    def __init__(self) -> None:
        self._seen: set[str] = set()
        self._failed: set[str] = set()

    def note(self, rows: list[str], *, passed: bool) -> None:
        self._seen.update(rows)
        if not passed:
            self._failed.update(rows)

    def lines(self) -> Iterator[str]:
        sections: dict[tuple[str, str], list[str]] = defaultdict(list)
        for row in _catalogue():
            sections[(row["file"], row["section"])].append(row["id"])
        yield ""
        yield f"{'passing':>7} {'covered':>7} {'rows':>5}  section"
        total = [0, 0, 0]
        untouched: dict[str, list[int]] = defaultdict(list)
        for (file, section), ids in sections.items():
            covered = [row for row in ids if row in self._seen]
            passing = [row for row in covered if row not in self._failed]
            figures = (len(passing), len(covered), len(ids))
            total = [before + now for before, now in zip(total, figures, strict=True)]
            if covered:
                yield f"{figures[0]:7} {figures[1]:7} {figures[2]:5}  {file}: {section}"
            else:
                untouched[file].append(len(ids))
        for file, rows in untouched.items():
            yield f"{0:7} {0:7} {sum(rows):5}  {file}: {len(rows)} sections that no test of this run names"
        yield f"{total[0]:7} {total[1]:7} {total[2]:5}  all"
        if self._failed:
            yield f"rows with a test that does not pass: {', '.join(sorted(self._failed))}"


_ROWS = "rows"
_KEY = pytest.StashKey[_Tally]()


def _rows_of(item: pytest.Item) -> list[str]:
    return [row for mark in item.iter_markers("rows") for row in mark.args]


def _catalogue() -> list[dict[str, str]]:
    with ROWS.open(newline="") as file:
        return list(csv.DictReader(file))
