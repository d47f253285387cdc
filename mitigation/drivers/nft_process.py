"""Running the nft program: text in, JSON out, failures as DriverError."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from mitigation.exceptions import DriverError

CAP_NET_ADMIN = 12
OF_ELEMENTS = ("add element ", "delete element ")
CHARACTERS_A_SECOND = 150_000  # of a change; an element has some hundred


class NftFailed(DriverError):
    """nft refused; `stderr` holds its words."""

    def __init__(self, stderr: str) -> None:
        self.stderr = stderr
        super().__init__(f"nft: {_first_line(stderr)}", retryable=not self.is_denied)

    @property
    def is_denied(self) -> bool:
        return "Operation not permitted" in self.stderr

    @property
    def is_conflict(self) -> bool:
        """What we took for there is gone, or what we took for free is taken: the picture we acted on is old."""
        return any(words in self.stderr for words in ("No such file", "File exists", "resource busy"))


class Nft:
    """nft in this network namespace, or in the one called `netns`.

    A run that takes longer than `timeout` seconds hangs and is ended. What it is told to change takes its time: loading
    10,000 elements was measured at 0.2 s on an idle machine, and one that is busy elsewhere gets thirty times that.
    """

    def __init__(
        self, *, netns: str | None = None, timeout: float = 4.0, generation: Callable[[], int | None] | None = None
    ) -> None:
        self.netns = netns
        self.timeout = timeout
        self.changes = 0  # transactions that changed something
        self.remakes = 0  # how many of them changed more than elements
        self._generation = generation

    def change(self, text: str) -> None:
        """One transaction: all of it or nothing."""
        before = self._generation() if self._generation else None
        self._run("-f", "-", text=text)
        # The kernel does not count a transaction that changed nothing; counted here, it would hide somebody else's.
        if before is None or self._generation is None or self._generation() != before:
            self.changes += 1
            self.remakes += not all(line.startswith(OF_ELEMENTS) for line in text.splitlines())

    def answer(self) -> None:
        """Whether the program runs at all, asked before it is needed: reading goes without it."""
        self._run("--version")

    def namespace_inode(self) -> int:
        path = Path("/proc/self/ns/net") if self.netns is None else Path("/run/netns") / self.netns
        try:
            return path.stat().st_ino
        except OSError as error:
            raise DriverError(f"the network namespace cannot be found: {error.strerror}") from error

    def _run(self, *arguments: str, text: str | None = None) -> str:
        timeout = self.timeout + len(text or "") / CHARACTERS_A_SECOND
        command = ["nft", *arguments] if self.netns is None else ["ip", "netns", "exec", self.netns, "nft", *arguments]
        try:
            done = subprocess.run(
                command,
                input=text,
                capture_output=True,
                text=True,
                timeout=timeout,
                env=os.environ | {"LC_ALL": "C"},
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise DriverError(f"nft did not answer within {timeout:.3g} seconds") from error
        except OSError as error:
            raise DriverError(f"nft cannot be started: {error.strerror}", retryable=False) from error
        if done.returncode != 0:
            raise NftFailed(done.stderr)
        return done.stdout


def why_unusable() -> str | None:
    """A sentence when this process cannot use nftables at all, before anything is tried."""
    if shutil.which("nft") is None:
        return "the program nft is not installed here"
    if not may_administer_network():
        return "this process may not change the network's rules: it lacks CAP_NET_ADMIN"
    return None


def may_administer_network() -> bool:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> CAP_NET_ADMIN & 1)
    return False


def _first_line(stderr: str) -> str:
    lines = stderr.strip().splitlines()
    return lines[0] if lines else "refused without a word"
