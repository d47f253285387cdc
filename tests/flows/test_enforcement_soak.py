"""Rules stand whatever happens to them: faults in turn, each followed by exactly what was wanted, soon.

`ROUNDS=100` as `make soak-enforcement` has it; the five that are quick otherwise. Every time is printed (`pytest -s`).
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from durability_state import kill, processes, query, unproven_rules, wait_for_restart

from tests.harness.environment import IN_CI, PRIVATE_NETWORK
from tests.harness.product import Files, Product, running
from tests.harness.waiting import until

pytestmark = [pytest.mark.flow, pytest.mark.slow]

TABLE = "dots_soak"
MITIGATIONS = 300
REPAIRED_WITHIN = 5.0
# Times how much slower a machine may be that others use too; SOAK_ROOM=1 holds an idle one to the promise.
ROOM = float(os.environ.get("SOAK_ROOM", "3"))
HANG_NOTICED_WITHIN = 5.5  # nft is asked each second and given 4 s to answer

ASK = """
from django.utils import timezone
from mitigation.models import Client
from mitigation.protocol.scope import MitigationRequest, Scope, parse_target_prefix
from mitigation.services.mitigations import Submission, submit_many
client = Client.objects.get(name={client!r})
client.domain.maximum_mitigations = 10_000
client.domain.save()
def request(mid):
    scope = Scope(target_prefix=(parse_target_prefix({prefix!r}.format(mid)),))
    return Submission(client.pk, MitigationRequest(cuid="soak", mid=mid, scope=scope, lifetime=86_400))
submit_many([request(mid) for mid in range(1, {count} + 1)], now=timezone.now())
"""
# Amplified answers to the protected host, which is an address of the namespace's own loopback.
ATTACK = """
import socket, sys, time
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("", 53))
while True:
    sock.sendto(bytes(100), (sys.argv[1], 4242))
    time.sleep(0.02)
"""


class Box:
    """One machine: a namespace with a program `nft` of our own that hangs or is missing when told."""

    def __init__(self, directory: Path) -> None:
        self.namespace = f"dots-soak-{os.getpid()}"
        self.directory = directory
        real = shutil.which("nft")
        assert real is not None
        self.real = real
        self.nft = directory / "nft"
        self.hangs = directory / "hangs"
        for place in reversed(os.environ["PATH"].split(":")):
            for program in Path(place).glob("*"):
                link = directory / program.name
                link.unlink(missing_ok=True)
                link.symlink_to(program)
        self.install_nft()

    def install_nft(self) -> None:
        self.nft.unlink(missing_ok=True)
        self.nft.write_text(f'#!/bin/sh\nwhile [ -e {self.hangs} ]; do sleep 0.1; done\nexec {self.real} "$@"\n')
        self.nft.chmod(0o755)

    def run(self, *command: str, check: bool = True) -> str:
        inside = ["ip", "netns", "exec", self.namespace, *command]
        return subprocess.run(inside, check=check, capture_output=True, text=True, timeout=30).stdout

    def do(self, text: str) -> None:
        """A change by nft's own words."""
        self.run(self.real, text)

    def listed(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.run(self.real, "-j", "list", "ruleset"))["nftables"]
        return found


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    if not (PRIVATE_NETWORK and shutil.which("nft")):
        if IN_CI:
            pytest.fail("continuous integration must run as root with nftables")
        pytest.skip("needs root and nftables")
    found = Box(tmp_path_factory.mktemp("bin"))
    subprocess.run(["ip", "netns", "add", found.namespace], check=True)
    try:
        found.run("ip", "link", "set", "lo", "up")
        yield found
    finally:
        subprocess.run(["ip", "netns", "delete", found.namespace], check=True)


def standing(box: Box) -> Counter[str]:
    """What is ours in the kernel, each thing with how often it is there; without counters, deadlines and meters."""
    found: Counter[str] = Counter()
    for item in box.listed():
        ((what, value),) = item.items()
        if value.get("table", value.get("name")) != TABLE or what == "metainfo":
            continue
        name = value.get("chain", value.get("name", ""))
        if what in ("set", "map"):
            found[f"{what} {name}"] += 1
            if name.startswith(("scope", "count")):
                found.update(f"{name}: {_element(element)}" for element in value.get("elem", ()))
        elif "foreign" not in name:
            kept = {key: part for key, part in value.items() if key != "handle"}
            found[f"{what} {json.dumps(kept, sort_keys=True)}"] += 1
    return found


def _element(element: Any) -> str:
    """An element of a map carries its rule's key as comment, a counting one of a set the key and its epoch."""
    inner = element[0]["elem"] if isinstance(element, list) else element["elem"]
    key = inner["comment"] if isinstance(element, list) else inner["comment"].rpartition(" ")[0]
    return f"{json.dumps(inner['val'], sort_keys=True)} {key}"


class Soak:
    """A running product with what it should hold, and every fault there is."""

    def __init__(self, box: Box, product: Product, alice: Files, host: str) -> None:
        self.box, self.product, self.alice, self.host = box, product, alice, host
        self.wanted: Counter[str] = Counter()
        self._dropped = 0
        self.told_within: list[float] = []  # seconds until the point said that it was down

    @property
    def faults(self) -> dict[str, Callable[[], Callable[[], None] | None]]:
        """What some of them return is to be checked once all is whole again."""
        return {
            "elements removed": self.elements_removed,
            "ruleset flushed": self.flushed,
            "foreign rules, chains and tables": self.foreign_things,
            "enforcer killed": self.enforcer_killed,
            "point down and back": self.point_down,
            "rules removed": self.rules_removed,
            "a second instance": self.second_instance,
            "nft hangs": self.nft_hangs,
        }

    def is_whole(self) -> bool:
        return standing(self.box) == self.wanted and not unproven_rules(self.product)

    def until_whole(self, *, within: float = REPAIRED_WITHIN * ROOM) -> float:
        began = time.monotonic()
        try:
            until(self.is_whole, within=within, every=0.3, what="what was wanted")
        except AssertionError:
            now = standing(self.box)
            missing, extra = list((self.wanted - now).items())[:5], list((now - self.wanted).items())[:5]
            raise AssertionError(f"missing {missing}, too much {extra}:\n{self.product.log()[-2000:]}") from None
        return time.monotonic() - began

    def counters_only_grow(self) -> None:
        dropped = query(self.product, "SELECT coalesce(sum(dropped_packets), 0) FROM mitigation_mitigation")[0][0]
        assert dropped >= self._dropped
        self._dropped = dropped

    def first(self, what: str, prefix: str) -> str:
        return next(
            value["name"]
            for item in self.box.listed()
            for kind, value in item.items()
            if kind == what and value.get("table") == TABLE and value["name"].startswith(prefix)
        )

    # -- faults

    def elements_removed(self) -> None:
        for what, prefix in (("map", "scope_amp_ports6"), ("set", "count_amp_ports6"), ("map", "scope_syn_ports6")):
            name = self.first(what, prefix)
            listed = json.loads(self.box.run(self.box.real, "-j", "list", what, "inet", TABLE, name))["nftables"]
            elements = next(item[what]["elem"] for item in listed if what in item)
            for element in elements[: len(elements) // 3 : 20]:
                inner = element[0]["elem"] if isinstance(element, list) else element["elem"]
                value = " . ".join(_text(part) for part in inner["val"]["concat"])
                self.box.do(f"delete element inet {TABLE} {name} {{ {value} }}")

    def rules_removed(self) -> None:
        for prefix in ("drops", "do_amp", "hit_"):
            self.box.do(f"flush chain inet {TABLE} {self.first('chain', prefix)}")

    def foreign_things(self) -> Callable[[], None]:
        self.box.do("add table ip theirs")
        self.box.do("add chain ip theirs incoming { type filter hook input priority 7; policy accept; }")
        self.box.do("add rule ip theirs incoming counter")
        self.box.do(f"add chain inet {TABLE} foreign_chain")
        self.box.do(f"add rule inet {TABLE} foreign_chain counter")
        self.box.do(f'insert rule inet {TABLE} {self.first("chain", "drops")} accept comment "foreign"')
        before = self.box.run(self.box.real, "-s", "list", "table", "ip", "theirs")

        def untouched() -> None:
            assert self.box.run(self.box.real, "-s", "list", "table", "ip", "theirs") == before
            assert "counter" in self.box.run(self.box.real, "list", "chain", "inet", TABLE, "foreign_chain")
            self.box.do("delete table ip theirs")
            self.box.do(f"delete chain inet {TABLE} foreign_chain")

        return untouched

    def flushed(self) -> None:
        self.box.do("flush ruleset")

    def enforcer_killed(self) -> None:
        lines = len(self.product.lines)
        kill(processes(self.product)["enforcer"])
        self.box.do(f"flush chain inet {TABLE} {self.first('chain', 'drops')}")
        wait_for_restart(self.product, {"enforcer"}, lines_before=lines)

    def point_down(self) -> None:
        self.box.nft.unlink()
        self.until_told("nft cannot be started", within=15 * ROOM)
        self.box.do(f"flush chain inet {TABLE} {self.first('chain', 'drops')}")
        self.box.install_nft()

    def nft_hangs(self) -> None:
        self.box.hangs.touch()
        try:
            self.until_told("did not answer within 4", within=HANG_NOTICED_WITHIN * ROOM)
            self.box.do(f"flush chain inet {TABLE} {self.first('chain', 'drops')}")
        finally:
            self.box.hangs.unlink()

    def until_told(self, words: str, *, within: float) -> None:
        """The client, the operator's list and the point say that rules do not stand."""
        health = "SELECT health, health_sentence FROM mitigation_enforcementpoint"
        began = time.monotonic()
        until(lambda: words in query(self.product, health)[0][1], within=within, what=f"the point saying {words!r}")
        self.told_within.append(time.monotonic() - began)
        assert query(self.product, health)[0][0] == "down"
        until(lambda: self.client_status() == 1, within=2 * ROOM, what="the client hearing of it")
        waiting = "SELECT count(*) FROM mitigation_mitigation WHERE status <> 1"
        until(lambda: query(self.product, waiting)[0][0] == 0, within=5 * ROOM, what="all of them told in progress")

    def client_status(self) -> int:
        asked = self.product.client(self.alice, "status", namespace=self.box.namespace)
        assert asked.status == 0, asked
        return int(asked.json["scope"][0]["status"])

    def second_instance(self) -> None:
        before = standing(self.box)
        with running(environment=environment(self.box), namespace=self.box.namespace) as other:
            said = "SELECT health_sentence FROM mitigation_enforcementpoint"
            words = "already driven by"
            until(lambda: words in query(other, said)[0][0], within=20, what="the second instance refusing")
        assert standing(self.box) == before


def _text(part: Any) -> str:
    if isinstance(part, dict) and "range" in part:
        return "-".join(map(str, part["range"]))
    if isinstance(part, dict):
        return f"{part['prefix']['addr']}/{part['prefix']['len']}"
    return str(part)


def environment(box: Box) -> dict[str, str]:
    return {"DOTS_NFT_TABLE": TABLE, "DOTS_DRIVER": "nftables", "DOTS_BREAKER_RULES": "0", "PATH": str(box.directory)}


@contextmanager
def attack(box: Box, host: str) -> Iterator[None]:
    box.run("ip", "address", "add", f"{host}/32", "dev", "lo")
    command = ["ip", "netns", "exec", box.namespace, sys.executable, "-c", ATTACK, host]
    sender = subprocess.Popen(command)
    try:
        yield
    finally:
        sender.kill()
        sender.wait(timeout=10)


def test_rules_stand_whatever_happens_to_them(box: Box, tell: Callable[[str], None]) -> None:
    with running(environment=environment(box), namespace=box.namespace) as product:
        domain = product.new_domain()
        alice = product.new_client(domain, "alice")
        asked = product.client(alice, "mitigate", domain.host, namespace=box.namespace)
        assert asked.status == 0, asked
        prefix = domain.prefix6.replace("::/64", "::{:x}:1/128")
        product.manage("shell", "-c", ASK.format(client=alice.name, prefix=prefix, count=MITIGATIONS))
        states = "SELECT count(*) FROM mitigation_mitigation WHERE status = 2"
        until(lambda: query(product, states)[0][0] == MITIGATIONS + 1, within=60, what="all in force")
        soak = Soak(box, product, alice, domain.host)
        soak.wanted = standing(box)
        assert max(soak.wanted.values()) == 1, "nothing stands twice"
        assert sum(" count_" in f" {name}" for name in soak.wanted) > MITIGATIONS

        took: dict[str, list[float]] = {}
        with attack(box, domain.host):
            until(lambda: soak.counters_only_grow() or soak._dropped, what="drops")
            for number in range(int(os.environ.get("ROUNDS", "5"))):
                name, fault = list(soak.faults.items())[number % len(soak.faults)]
                began = time.monotonic()
                check = fault()
                took.setdefault(name, []).append(soak.until_whole())
                if check is not None:
                    check()
                until(lambda: query(product, states)[0][0] == MITIGATIONS + 1, within=10, what="status 2 again")
                soak.counters_only_grow()
                whole, round_took = took[name][-1], time.monotonic() - began
                tell(f"round {number + 1}: {name}, whole again after {whole:.2f} s, round of {round_took:.1f} s")
        tell("until whole again: fastest / median / slowest")
        for name, times in took.items():
            tell(f"{name}: {min(times):.2f} / {statistics.median(times):.2f} / {max(times):.2f} s of {len(times)}")
        if told := soak.told_within:
            tell(f"down was told within {min(told):.2f} / {statistics.median(told):.2f} / {max(told):.2f} s")
