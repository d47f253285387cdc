"""A process of the product's own that a test can ask: `manage.py shell`, kept open, on the same database.

What it commits is another process's commit to the signal channel; what it reads is what a restart would find.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
_LOOP = """
import json, sys, traceback
from django.db import connections
for line in sys.stdin:
    # A database may have been restarted since; what is left open on purpose is somebody's transaction.
    for one in connections.all(initialized_only=True):
        if one.autocommit and not one.in_atomic_block:
            one.close()
    asked = json.loads(line)
    space = asked["values"]
    try:
        exec(asked["code"], space)
        answer = {"result": space.get("result")}
    except Exception:
        answer = {"error": traceback.format_exc()}
    print("answer:" + json.dumps(answer, default=str), flush=True)
"""
_IMPORTS = """
from mitigation.models import *
from mitigation.runtime import clock
now = clock.now()
"""


_MANAGE = """
import io
from django.core.management import call_command
out = io.StringIO()
call_command(*arguments, stdout=out)
result = out.getvalue()
"""


class Console:
    """`Product.console` is one that is kept; `console()` opens another."""

    def __init__(self, environment: Mapping[str, str], *, inside: Sequence[str] = ()) -> None:
        self._process = subprocess.Popen(
            [*inside, sys.executable, str(ROOT / "manage.py"), "shell", "-c", _LOOP],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, code: str, **values: Any) -> Any:
        """Run statements that know all models, `now`, and `values` by name; what they leave in `result`, as JSON has it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"code": _IMPORTS + code, "values": values}) + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("answer:"):
                answer = json.loads(line.removeprefix("answer:"))
                assert "error" not in answer, answer["error"]
                return answer["result"]
        raise AssertionError(f"the console ended with {self._process.wait(timeout=5)}")

    def manage(self, *arguments: str) -> str:
        """What `manage.py ...` prints, without the second that a process takes to start."""
        return str(self.run(_MANAGE, arguments=list(arguments)))

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:  # it waits for a database that a test has taken away
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


@contextmanager
def console(product: Any) -> Iterator[Console]:
    """One more process on the database of this product, for as long as the block lasts."""
    opened = Console(product.environment)
    try:
        yield opened
    finally:
        opened.close()
