"""The file of a dump: JSON lines in gzip, a header line first that says what follows, and its hash.

    {"content": ..., "format": "dots-dump", "header": ..., "made_at": ..., "migrations": ..., "rows": ..., "version": 1}
    {"columns": ["id", "name", ...], "table": "mitigation.domain"}
    [1, "example.net", ...]
    ...

`content` is SHA-256 over all lines but the first; two dumps of the same rows have the same, from either database.
`header` is SHA-256 over the header without it. Objects have their keys sorted, since PostgreSQL does not keep an order.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

from mitigation.exceptions import StorageRefused

FORMAT, VERSION = "dots-dump", 1
DAMAGED = "the dump is truncated, altered or damaged"
_LONGEST_HEADER = 1_000_000
_STEP = 1_000  # rows between two reports

Progress = Callable[[str, int, int], None]  # what is done, rows so far, rows in all
Row = list[Any]


def silent(what: str, done: int, total: int) -> None:
    """For callers that need no progress."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a dump says of itself. `migrations`: names by app; `rows`: counts by table."""

    made_at: str
    migrations: dict[str, list[str]]
    rows: dict[str, int]
    content: str = ""
    header: str = ""
    format: str = FORMAT
    version: int = VERSION

    @property
    def total(self) -> int:
        return sum(self.rows.values())

    def hashed(self) -> Header:
        """With its own hash."""
        values = asdict(self)
        del values["header"]
        return replace(self, header=hashlib.sha256(_line(values)).hexdigest())


@dataclass(frozen=True, slots=True)
class Table:
    """A table's name, the columns of its rows, and the rows."""

    name: str
    columns: list[str]
    rows: Iterator[Row]


def write(out: BinaryIO, tables: Iterable[Table], header: Header, *, scratch: Path, progress: Progress) -> Header:
    """Write a dump; returns its header, complete. The body waits in a nameless file in `scratch` for its hash."""
    digest, done = hashlib.sha256(), 0
    with tempfile.TemporaryFile(dir=scratch) as body:
        with gzip.GzipFile(fileobj=body, mode="wb", mtime=0, compresslevel=6) as packed:
            for line, is_row in _lines(tables):
                digest.update(line)
                packed.write(line)
                done += is_row
                if done % _STEP == 0:
                    progress("written", done, header.total)
        complete = replace(header, content=digest.hexdigest()).hashed()
        out.write(gzip.compress(_line(asdict(complete)), mtime=0))
        body.seek(0)
        shutil.copyfileobj(body, out, 1 << 20)
    return complete


def verify(source: BinaryIO, *, progress: Progress) -> Header:
    """Read the whole file, and return its header only when it is as it was written. Raises StorageRefused."""
    with _damage_is_refused(), gzip.GzipFile(fileobj=source) as lines:
        header = _header(lines.readline(_LONGEST_HEADER))
        digest = hashlib.sha256()
        counts: dict[str, int] = {}
        done, table = 0, ""
        for line in lines:
            digest.update(line)
            if line.startswith(b"{"):
                table = str(json.loads(line)["table"])
                if table in counts:
                    raise StorageRefused(DAMAGED)
                counts[table] = 0
                continue
            counts[table] += 1
            done += 1
            if done % _STEP == 0:
                progress("checked", done, header.total)
        if digest.hexdigest() != header.content or counts != header.rows:
            raise StorageRefused(DAMAGED)
    source.seek(0)
    return header


def read(source: BinaryIO) -> Iterator[Table]:
    """The tables of a verified file, in its order; the rows of one are to be read before the next is asked for."""
    with gzip.GzipFile(fileobj=source) as lines:
        lines.readline(_LONGEST_HEADER)
        heads: list[bytes] = [lines.readline()]

        def rows() -> Iterator[Row]:
            for line in lines:
                if line.startswith(b"{"):
                    heads.append(line)
                    return
                yield json.loads(line)

        while heads and heads[0]:
            head = json.loads(heads.pop())
            yield Table(head["table"], head["columns"], rows())


def _lines(tables: Iterable[Table]) -> Iterator[tuple[bytes, bool]]:
    for table in tables:
        yield _line({"table": table.name, "columns": table.columns}), False
        for row in table.rows:
            yield _line(row), True


def _line(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True, allow_nan=False).encode() + b"\n"


def _header(line: bytes) -> Header:
    values = json.loads(line)
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise StorageRefused("this is not a dump of this server")
    if values.get("version") != VERSION:
        raise StorageRefused(f"this dump has format version {values.get('version')}, and {VERSION} is understood")
    header = Header(**values)
    datetime.fromisoformat(header.made_at)
    if header != header.hashed() or _line(asdict(header)) != line:
        raise StorageRefused(DAMAGED)
    return header


class _damage_is_refused:  # noqa: N801  reads as a sentence where it is used
    """Whatever a file that nobody wrote like this makes the libraries raise."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: object) -> None:
        if isinstance(error, gzip.BadGzipFile) and "Not a gzipped file" in str(error):
            raise StorageRefused("this is not a dump of this server, or its beginning is damaged") from None
        if isinstance(error, EOFError | OSError | zlib.error | ValueError | TypeError | KeyError | AttributeError):
            raise StorageRefused(DAMAGED) from None
