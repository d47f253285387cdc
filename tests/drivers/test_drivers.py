"""Drivers without equipment: what they promise, refuse and say."""

from __future__ import annotations

import os
import stat
from ipaddress import ip_network
from pathlib import Path

import pytest
from traffic import discard, for_a_while, scope, shield

from mitigation.drivers import nft_process
from mitigation.drivers.base import Desired, HealthState
from mitigation.drivers.dryrun import DryRunDriver
from mitigation.drivers.nft_lock import TableLock
from mitigation.drivers.nft_netlink import Element
from mitigation.drivers.nft_process import Nft, NftFailed
from mitigation.drivers.nft_readback import read_counted, read_scoped
from mitigation.drivers.nft_ruleset import HOOKS, Place, Ruleset, parts, version_of
from mitigation.drivers.nftables import NftablesDriver
from mitigation.drivers.registry import get_driver
from mitigation.exceptions import DriverError
from mitigation.rules.boxes import NO_PORT, Box
from mitigation.rules.canonical import Kind, Parameters, Rule
from mitigation.rules.playbooks import render

HOST = "198.51.100.7"
BOX = Box(4, 1, 1, 17, 17, 0, 65535)


@pytest.fixture
def fake_nft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """An nft that does what the shell line says; nothing here reaches the real one."""

    def install(script: str) -> None:
        program = tmp_path / "bin" / "nft"
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")

    return install


def nftables(tmp_path: Path, **settings: object) -> NftablesDriver:
    return NftablesDriver(**{"runtime_dir": tmp_path} | settings)


# Dry run


@pytest.mark.rows("ENF-GEN-006")
def test_a_dry_run_installs_nothing_and_says_so():
    driver = get_driver("dryrun")
    rules = render("shield", scope(HOST), {}).rules

    driver.apply(for_a_while(rules), ["discard 198.51.100.9/32 any any"])
    driver.resync(for_a_while(rules))

    assert driver.installed() == {}
    assert driver.counters() == []
    assert driver.health().sentence == "dry run: no traffic is touched"
    assert (driver.capabilities().enforces, driver.capabilities().counts) == (False, False)
    assert driver.check(rules) == []
    driver.remove_all()
    driver.close()


def test_a_dry_run_of_small_equipment_names_what_would_not_fit():
    rules = render("shield", scope(HOST), {}).rules

    problems = DryRunDriver(max_rules=2).check(rules)

    assert [problem.key for problem in problems] == [rule.key for rule in rules[2:]]


# Registry and values


def test_drivers_are_found_by_name(tmp_path):
    assert isinstance(get_driver("nftables", runtime_dir=tmp_path), NftablesDriver)
    with pytest.raises(DriverError, match="no driver exabgp; known are dryrun, nftables") as refusal:
        get_driver("exabgp")
    assert not refusal.value.retryable


def test_a_rule_without_time_left_is_not_desired():
    with pytest.raises(ValueError, match="would expire in 0 seconds"):
        Desired(Rule(Kind.DISCARD, BOX), 0)


@pytest.mark.parametrize("table", ["", "Dots", "dots;", "1dots", "d" * 40])
def test_a_strange_table_name_is_refused(tmp_path, table):
    with pytest.raises(DriverError, match="no name for a table"):
        nftables(tmp_path, table=table)


# Checking


@pytest.mark.rows("ENF-GEN-006")
def test_whole_plans_can_be_expressed(tmp_path):
    rules = [
        *render("shield", scope(HOST, "2001:db8::/32"), {}).rules,
        *discard(scope("198.51.100.8", protocols=(17,))),
        *(rule for rule in render("ratelimit", scope(HOST), {"limit_packets": 1}).rules if rule.drops),
        *render("redirect", scope(HOST), {}).rules,
    ]

    assert nftables(tmp_path).check(rules) == []
    assert {rule.kind for rule in rules} == nftables(tmp_path).capabilities().kinds


@pytest.mark.parametrize(
    ("rule", "complaint"),
    [
        (Rule(Kind.SYN_LIMIT, BOX), "a rate and a burst"),
        (Rule(Kind.AMPLIFICATION, BOX), "needs ports"),
        (Rule(Kind.BOGONS, BOX, Parameters(source_prefixes=(ip_network("fc00::/7"),))), "of the family"),
        (Rule(Kind.BOGONS, BOX), "of the family"),
        (Rule(Kind.FRAGMENTS, BOX), "no packet of this box"),
        (Rule(Kind.DISCARD, Box(4, 1, 1, 47, 47, 80, 80)), "no packet of this box"),
    ],
)
def test_what_cannot_be_expressed_is_named_and_refused(tmp_path, rule, complaint):
    driver = nftables(tmp_path)

    (problem,) = driver.check([rule])

    assert problem.key == rule.key
    assert complaint in problem.sentence
    with pytest.raises(DriverError, match=complaint):
        driver.apply(for_a_while([rule]), ())


def test_limits_that_need_both_directions_are_no_capability_of_a_box_that_sees_one(tmp_path):
    driver = nftables(tmp_path, stateful=False)
    limits = shield(scope(HOST), [Kind.SYN_LIMIT, Kind.UDP_LIMIT, Kind.ICMP_LIMIT])

    assert driver.capabilities().kinds == set(Kind) - {Kind.UDP_LIMIT, Kind.ICMP_LIMIT}
    assert [problem.key.split()[0] for problem in driver.check(limits)] == ["udp", "icmp"]


def test_overlaps_of_one_kind_are_named(tmp_path):
    rules = [*discard(scope("198.51.100.0/24", protocols=(17,))), *discard(scope(HOST, protocols=(17,)))]

    assert [problem.key for problem in nftables(tmp_path).check(rules)] == [rule.key for rule in rules]


@pytest.mark.rows("ENF-VAL-005")
def test_rules_beyond_the_budget_are_named(tmp_path):
    rules = render("shield", scope(HOST), {}).rules

    assert len(nftables(tmp_path, max_rules=3).check(rules)) == len(rules) - 3


# Text


def test_every_name_carries_the_version_and_fits():
    ruleset = Ruleset("dots", stateful=True, meter_size=10)
    profiles = [ruleset.profile(place, Parameters(1, 1)) for place in ruleset.places]
    names = {*ruleset.maps, *ruleset.sets, *(chain.name for chain in ruleset.chains)}
    names |= {profile.chain.name for profile in profiles} | {profile.meter for profile in profiles if profile.meter}

    assert {version_of(name) for name in names} == {ruleset.version}
    assert version_of("theirs") is None
    assert version_of("drops") is None


def test_anything_constant_that_differs_makes_another_version():
    versions = {
        Ruleset("dots", stateful=stateful, meter_size=size).version for stateful in (True, False) for size in (10, 20)
    }

    assert len(versions) == 4
    assert Ruleset("dots", stateful=True, meter_size=10).version in versions


def test_the_constant_part_never_flushes_or_destroys_anything_but_its_own_chains():
    text = Ruleset("dots", stateful=True, meter_size=10).create(())

    assert "destroy" not in text
    assert "flush ruleset" not in text
    assert all(
        line.split()[:4] in (["flush", "chain", "inet", "dots"],) for line in text.splitlines() if "flush" in line
    )


def test_drops_hook_before_reassembly_and_limits_after_tracking():
    text = Ruleset("dots", stateful=True, meter_size=10).create(())

    priorities = [int(line.split("priority ")[1].split(";")[0]) for line in text.splitlines() if "priority" in line]
    assert priorities == [-460, -129, -450, -140, -130]


@pytest.mark.parametrize(
    ("box", "values"),
    [
        (Box(4, 1, 1), ["0.0.0.1/32 . 0-255", "0.0.0.1/32 . 0-255 . 0-65535"]),
        (Box(4, 1, 2, 17, 17), ["0.0.0.1-0.0.0.2 . 17", "0.0.0.1-0.0.0.2 . 17 . 0-65535"]),
        (Box(4, 1, 1, 17, 17, NO_PORT, NO_PORT), ["0.0.0.1/32 . 17"]),
        (Box(4, 1, 1, 17, 17, NO_PORT, 52), ["0.0.0.1/32 . 17", "0.0.0.1/32 . 17 . 0-52"]),
        (Box(4, 1, 1, 6, 6, 80, 80), ["0.0.0.1/32 . 6 . 80"]),
        (Box(6, 1, 1, 47, 47), ["::1/128 . 47"]),
    ],
)
def test_a_box_becomes_at_most_one_element_with_ports_and_one_without(box, values):
    assert [part.value for part in parts(Kind.DISCARD, box)] == values


def test_every_kind_has_its_place():
    assert HOOKS.keys() == set(Kind)
    assert Place(Kind.ICMP_LIMIT, False, 6) in Ruleset("dots", stateful=True, meter_size=1).places


def test_the_longest_comment_fits_into_a_comment_of_nftables():
    far = Box(6, 2**128 - 2**100 - 1, 2**128 - 2, 100, 255, NO_PORT, 65534)
    rule = Rule(Kind.BOGONS, far, Parameters(rate=1))

    assert len(f"{rule.key} {'0' * 8}") <= 128


# Reading


def test_elements_with_other_comments_have_no_key():
    with_ports, portless = (Place(Kind.AMPLIFICATION, ports, 4) for ports in (True, False))
    host, other = bytes((198, 51, 100, 7, 17, 0, 0, 0)), bytes((198, 51, 100, 9, 17, 0, 0, 0))
    ports = bytes((0, 53, 0, 0)), bytes((255, 255, 0, 0))

    (scoped,) = read_scoped(with_ports, [Element("mine", host + ports[0], host + ports[1], 3, "c", 0, 0)])
    (bare,) = read_scoped(portless, [Element("", host, other, 0, "", 0, 0)])
    (counted,) = read_counted(portless, [Element("theirs 0", host, host, 0, "", 1, 2)])

    assert (scoped.key, scoped.value, scoped.expires, scoped.target) == (None, "198.51.100.7 . 17 . 53-65535", 3, "c")
    assert (bare.key, bare.value, bare.target) == (None, "198.51.100.7-198.51.100.9 . 17", "")
    assert (counted.key, counted.value, counted.packets) == (None, "198.51.100.7 . 17", 1)


# The program


def test_an_nft_that_hangs_is_an_error_worth_trying_again(tmp_path, fake_nft):
    fake_nft("exec sleep 600")

    with pytest.raises(DriverError, match=r"did not answer within 0\.2 seconds") as failure:
        nftables(tmp_path, timeout=0.2).installed()

    assert failure.value.retryable


def test_a_large_change_is_given_the_time_it_takes_and_a_small_one_is_not(tmp_path, fake_nft):
    fake_nft("cat > /dev/null; sleep 1")
    nft = Nft(timeout=0.2)

    nft.change("#" * nft_process.CHARACTERS_A_SECOND * 10)

    assert nft.changes == 1
    with pytest.raises(DriverError, match="did not answer"):
        nft.change("#" * 100)
    assert nft.changes == 1


def test_an_nft_that_is_not_allowed_is_told_apart(tmp_path, fake_nft, monkeypatch):
    fake_nft("echo 'Operation not permitted (you must be root)' >&2; exit 1")
    monkeypatch.setattr(nft_process, "may_administer_network", lambda: True)
    driver = nftables(tmp_path)

    assert driver.health().state is HealthState.DOWN
    with pytest.raises(NftFailed, match="not permitted") as failure:
        driver.installed()
    assert not failure.value.retryable


def test_without_the_program_or_the_right_health_says_which(tmp_path, fake_nft, monkeypatch):
    fake_nft("exit 1")
    monkeypatch.setattr(nft_process, "may_administer_network", lambda: False)
    assert "lacks CAP_NET_ADMIN" in nftables(tmp_path).health().sentence

    monkeypatch.setenv("PATH", str(tmp_path))
    assert nftables(tmp_path).health().sentence == "the program nft is not installed here"
    with pytest.raises(DriverError, match="cannot be started") as failure:
        Nft().answer()
    assert not failure.value.retryable


def test_a_namespace_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(DriverError, match="network namespace cannot be found"):
        nftables(tmp_path, netns="dots-test-none").installed()


# The lock


def test_the_lock_is_by_namespace_and_table(tmp_path):
    holder, other = TableLock(tmp_path, "dots"), TableLock(tmp_path, "dots")
    holder.acquire(1)
    holder.acquire(1)

    with pytest.raises(DriverError, match=f"already driven by process {os.getpid()}") as refusal:
        other.acquire(1)
    other.acquire(2)
    TableLock(tmp_path, "else").acquire(1)

    assert refusal.value.retryable
    holder.release()
    other.acquire(1)


def test_a_lock_that_cannot_be_opened_says_why(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(DriverError, match="cannot be opened"):
        TableLock(tmp_path / "file", "dots").acquire(1)
