"""One `up` a home; what a killed one left is waited for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from mitigation.runtime.instance import Instance
from mitigation.tasks import holder
from tests.harness.waiting import until


def test_only_one_has_it_and_the_next_waits_for_its_children(tmp_path: Path) -> None:
    first, second = Instance(tmp_path), Instance(tmp_path)
    assert first.claim() and first.wait_for_remnants(within=0)
    assert not second.claim()
    child = subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(first.descriptor,), text=True
    )

    for descriptor in (first._up, first._children):  # as its end would
        os.close(descriptor)

    assert second.claim()
    assert not second.wait_for_remnants(within=0.2), "its child lives on"
    child.communicate("\n", timeout=10)
    assert second.wait_for_remnants(within=5)


def test_a_lease_tells_whether_its_holder_lives() -> None:
    assert not holder.is_dead(holder.this_process())
    host, namespace, _, started = holder.this_process().split(":")
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait(timeout=10)

    assert holder.is_dead(f"{host}:{namespace}:{ended.pid}:12345")
    assert holder.is_dead(f"{host}:{namespace}:{os.getpid()}:{int(started) - 1}"), "the number was given anew"
    assert not holder.is_dead(f"elsewhere:{namespace}:{ended.pid}:12345"), "of another machine nothing is known"
    assert not holder.is_dead(f"{host}:1:{ended.pid}:12345"), "nor of another namespace"
    assert not holder.is_dead("")
    assert not holder.is_dead("some:words")


def test_a_process_that_nobody_has_reaped_is_dead() -> None:
    host, namespace, _, _ = holder.this_process().split(":")
    zombie = subprocess.Popen([sys.executable, "-c", ""])
    try:
        until(lambda: Path(f"/proc/{zombie.pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z", what="its end")
        started = Path(f"/proc/{zombie.pid}/stat").read_text().rpartition(")")[2].split()[19]
        assert holder.is_dead(f"{host}:{namespace}:{zombie.pid}:{started}")
    finally:
        zombie.wait(timeout=10)
