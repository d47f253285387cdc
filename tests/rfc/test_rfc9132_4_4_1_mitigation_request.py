"""What a mitigation request may ask for (RFC 9132, section 4.4.1.1), attribute by attribute."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import cbor2
import pytest
from refusals import assert_refused

from mitigation.protocol.scope import MitigationRequest, Scope
from tests.harness.console import Console
from tests.harness.product import Cast
from tests.harness.waiting import until
from tests.harness.wire import PUT, Peer, scope

Join = Callable[..., Peer]

ALIAS = """
from tests.harness.aliases import make_alias
make_alias(Client.objects.get(name=client), cuid, alias, target, now=now)
"""
RULES = (
    "result = list(Mitigation.objects.live().get(client__name=client, mid=mid).rules.values_list('text', flat=True))"
)


def prefix(cast: Cast) -> str:
    return f"{cast.domain.host}/32"


def body(cast: Cast, **others: Any) -> bytes:
    return scope(prefix(cast), **others)


def without(**keys: Any) -> bytes:
    """A body without the target-prefix and lifetime that others have by themselves."""
    return cbor2.dumps({1: {2: [{int(name[1:]): value for name, value in keys.items()}]}})


# -- the list and its entries


@pytest.mark.rows("SIG-MIT-001")
@pytest.mark.parametrize("transport", ["udp", "tcp"])
@pytest.mark.parametrize("count", [0, 2, 3, 40])
def test_scope_has_exactly_one_entry(join: Join, cast: Cast, count: int, transport: str) -> None:
    alice = join("alice", transport=transport)
    entries = [{6: [f"10.{number}.0.1/32"], 14: 600} for number in range(count)]
    if count:
        entries[0][6] = [prefix(cast)]

    assert_refused(alice, cbor2.dumps({1: {2: entries}}), f"scope has {count} entries, one is expected")


@pytest.mark.rows("SIG-MIT-001", "SIG-MIT-004")
@pytest.mark.parametrize("message", [{}, {2: [{6: ["10.0.0.1/32"], 14: 600}], 6: ["10.0.0.1/32"]}])
def test_the_message_holds_scope_and_nothing_else(alice: Peer, message: Any) -> None:
    assert_refused(alice, cbor2.dumps({1: message}), "holds scope and nothing else")


@pytest.mark.rows("SIG-MIT-002")
def test_a_target_is_needed(alice: Peer) -> None:
    assert_refused(alice, without(k7=[{8: 80}], k10=[6], k14=600), "a target is missing")
    assert_refused(alice, without(k14=600), "target-prefix, target-fqdn, target-uri or alias-name")


EMPTY: dict[str, dict[int, Any]] = {
    "target-prefix": {6: []},
    "target-prefix holds an empty text": {6: [""]},
    "target-prefix has one empty": {6: ["10.0.0.1/32", ""]},
    "target-port-range": {7: []},
    "target-port-range holds an empty map": {7: [{}]},
    "target-port-range has one empty": {7: [{8: 80}, {}]},
    "target-protocol": {10: []},
    "target-fqdn": {11: []},
    "target-fqdn holds an empty text": {11: [""]},
    "target-uri": {12: []},
    "target-uri holds an empty text": {12: [""]},
    "alias-name": {13: []},
    "alias-name holds an empty text": {13: [""]},
    "ietf-dots-signal-control:acl-list": {53: []},
    "ietf-dots-signal-control:acl-list holds an empty map": {53: [{}]},
}


@pytest.mark.rows("SIG-MIT-003")
@pytest.mark.parametrize("name", EMPTY)
def test_an_empty_attribute_makes_the_request_invalid(alice: Peer, cast: Cast, name: str) -> None:
    entry = {6: [prefix(cast)], 14: 600, **EMPTY[name]}

    assert_refused(alice, cbor2.dumps({1: {2: [entry]}}), f"{name.split(' ')[0]} is empty")


@pytest.mark.rows("SIG-MIT-003")
def test_an_empty_entry_is_refused(alice: Peer) -> None:
    assert_refused(alice, cbor2.dumps({1: {2: [{}]}}))


@pytest.mark.rows("SIG-MIT-025")
@pytest.mark.parametrize(
    ("code", "options"),
    [
        ("4.15", {"content_format": 60}),
        ("4.12", {"if_none_match": True}),
        ("4.02", {"raw": {9: b"x"}, "confirmable": True}),
    ],
)
def test_a_refusal_of_another_kind_leaves_no_state_either(
    alice: Peer, cast: Cast, code: str, options: dict[str, Any]
) -> None:
    if code == "4.12":
        alice.put(1, body(cast))
    before = alice.get().payload

    refused = alice.put(1, scope(f"{cast.domain.host6}/128") if code != "4.12" else body(cast, k10=[6]), **options)

    assert refused.code == code
    if code == "4.12":
        assert alice.get(1).scope[6] == [prefix(cast)]
        assert 10 not in alice.get(1).scope
    else:
        assert alice.get().payload == before
        assert alice.get(1).code == "4.04"


@pytest.mark.rows("SIG-MIT-025")
def test_a_conflict_leaves_no_state(alice: Peer, cast: Cast) -> None:
    alice.put(7, body(cast))

    refused = alice.put(6, body(cast))

    assert refused.code == "4.09"
    assert alice.get(6).code == "4.04"
    assert [entry[5] for entry in alice.get().scopes] == [7]


# -- target-prefix


@pytest.mark.rows("SIG-MIT-005", "SIG-MIT-004")
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("192.0.2.0/33", "is not an IPv4 or IPv6 prefix"),
        ("2001:db8::/129", "is not an IPv4 or IPv6 prefix"),
        ("192.0.2.0/-1", "is not an IPv4 or IPv6 prefix"),
        ("192.0.2.0/", "is not an IPv4 or IPv6 prefix"),
        ("192.0.2.0/24/24", "is not an IPv4 or IPv6 prefix"),
        ("192.0.2.256/32", "is not an IPv4 or IPv6 prefix"),
        ("192.0.2/24", "is not an IPv4 or IPv6 prefix"),
        ("192.0.02.1/32", "is not an IPv4 or IPv6 prefix"),
        ("0x0a000001/32", "is not an IPv4 or IPv6 prefix"),
        ("www.example.com", "has no prefix length"),
        ("192.0.2.1", "has no prefix length; write 192.0.2.1/32"),
        ("2001:db8::1", "has no prefix length"),
        ("fe80::1%lo/128", "target-prefix"),
        (" 192.0.2.1/32", "is not an IPv4 or IPv6 prefix"),
        ("192.0.2.1-192.0.2.9/32", "is not an IPv4 or IPv6 prefix"),
    ],
)
def test_what_is_no_prefix_is_refused(alice: Peer, text: str, words: str) -> None:
    assert_refused(alice, scope(text), words)


@pytest.mark.rows("SIG-MIT-005")
def test_host_bits_are_cleared(alice: Peer, cast: Cast) -> None:
    made = alice.put(1, scope(f"{cast.domain.host}/28", f"{cast.domain.host6}/112"))

    assert made.code == "2.01"
    wanted = [cast.domain.host.removesuffix("7") + "0/28", cast.domain.host6.removesuffix("7") + "/112"]
    assert alice.get(1).scope[6] == wanted


@pytest.mark.rows("SIG-MIT-005", "SIG-MIT-020")
def test_every_length_inside_the_domain_is_taken(alice: Peer, cast: Cast) -> None:
    network, network6 = cast.domain.prefix.removesuffix("/24"), cast.domain.prefix6.removesuffix("/64")
    wanted = [f"{network}/{length}" for length in range(24, 33)]
    wanted += [f"{network6}/{length}" for length in (64, 65, 96, 127, 128)]

    assert alice.put(1, scope(*wanted)).code == "2.01"
    assert alice.get(1).scope[6] == wanted


@pytest.mark.rows("SIG-MIT-006", "SIG-MIT-021", "SIG-MIT-027")
@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("255.255.255.255/32", "broadcast"),
        ("127.0.0.1/32", "loopback"),
        ("127.0.0.0/8", "loopback"),
        ("127.255.0.0/16", "loopback"),
        ("::1/128", "loopback"),
        ("224.0.0.0/4", "multicast"),
        ("224.0.0.1/32", "multicast"),
        ("239.255.255.0/24", "multicast"),
        ("ff02::1/128", "multicast"),
        ("ff00::/8", "multicast"),
        ("::ffff:127.0.0.1/128", "loopback"),
        ("::ffff:224.0.0.0/100", "multicast"),
        ("::ffff:255.255.255.255/128", "broadcast"),
        ("64:ff9b::127.0.0.1/128", "loopback"),
        ("64:ff9b::e000:1/128", "multicast"),
        ("0.0.0.0/32", "unspecified"),
        ("::/128", "unspecified"),
        ("169.254.169.254/32", "link-local"),
        ("fe80::1/128", "link-local"),
        ("::ffff:169.254.0.1/128", "link-local"),
    ],
)
def test_an_address_that_is_nobodys_is_refused(alice: Peer, cast: Cast, text: str, kind: str) -> None:
    assert_refused(alice, scope(text), f"is a {kind} address")
    assert_refused(alice, scope(prefix(cast), text), f"is a {kind} address")


@pytest.mark.rows("SIG-MIT-021")
@pytest.mark.parametrize("text", ["0.0.0.0/0", "::/0"])
def test_everything_is_no_target(alice: Peer, text: str) -> None:
    assert_refused(alice, scope(text), "is every address there is")


@pytest.mark.rows("SIG-MIT-021", "SIG-MIT-007")
@pytest.mark.parametrize("text", ["0.0.0.0/1", "10.0.0.0/8", "192.168.0.0/16", "2000::/3", "fc00::/7", "240.0.0.0/4"])
def test_a_prefix_wider_than_the_domain_is_refused(alice: Peer, text: str) -> None:
    assert_refused(alice, scope(text), text, "outside the prefixes of this client's domain")


@pytest.mark.rows("SIG-MIT-021", "SIG-MIT-007")
def test_one_bit_wider_than_the_domain_is_refused(alice: Peer, cast: Cast) -> None:
    for wider in (cast.domain.prefix.replace("/24", "/23"), cast.domain.prefix6.replace("/64", "/63")):
        assert_refused(alice, scope(wider), "outside the prefixes")
    assert alice.put(1, scope(cast.domain.prefix, cast.domain.prefix6)).code == "2.01"


@pytest.mark.rows("SIG-MIT-007", "SIG-MIT-025")
@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_one_foreign_target_refuses_the_whole_request(join: Join, cast: Cast, transport: str) -> None:
    alice = join("alice", transport=transport)
    for foreign in ("203.0.113.1/32", "2001:db8:ffff::1/128", "::ffff:203.0.113.1/128"):
        assert_refused(alice, scope(prefix(cast), foreign), "outside the prefixes")
    assert_refused(alice, scope(prefix(cast), k11=["www.example.org"]), "www.example.org is outside the names")
    assert_refused(alice, scope(prefix(cast), k12=["https://www.example.org/"]), "www.example.org is outside")
    assert_refused(alice, scope(prefix(cast), k12=["https://203.0.113.1/"]), "203.0.113.1/32 is outside")
    assert alice.get().code == "4.04"


@pytest.mark.rows("SIG-MIT-027")
def test_a_mapped_address_of_another_domain_is_refused(mallory: Peer, cast: Cast) -> None:
    assert_refused(mallory, scope(f"::ffff:{cast.domain.host}/128"), "outside the prefixes")


@pytest.mark.rows("SIG-MIT-004")
def test_more_targets_than_fit_are_refused(join: Join, cast: Cast) -> None:
    alice = join("alice", transport="tcp")  # a datagram holds fewer
    network = cast.domain.prefix6.removesuffix("/64")

    most = [f"{network}{number:x}/128" for number in range(1, 258)]

    assert_refused(alice, scope(*most), "target-prefix has 257 entries, at most 256")


# -- ports and protocols


@pytest.mark.rows("SIG-MIT-008", "SIG-MIT-004")
@pytest.mark.parametrize(
    ("ranges", "words"),
    [
        ([{8: 80, 9: 79}], "upper-port 79 is below lower-port 80"),
        ([{9: 80}], "lacks lower-port"),
        ([{8: 80}, {9: 90}], "lacks lower-port"),
        ([{8: 65536}], "a port is above 65535"),
        ([{8: 80, 9: 65536}], "a port is above 65535"),
        ([{8: 2**40}], "a port is above 65535"),
        ([{8: 80, 10: [6]}], "lower-port and upper-port only"),
    ],
)
def test_a_port_range_that_is_none_is_refused(alice: Peer, cast: Cast, ranges: Any, words: str) -> None:
    assert_refused(alice, body(cast, k7=ranges), words)


@pytest.mark.rows("SIG-MIT-008", "SIG-MIT-024")
@pytest.mark.parametrize("ranges", [[{8: 0}], [{8: 65535}], [{8: 0, 9: 65535}], [{8: 80}, {8: 1024, 9: 2048}]])
def test_ports_are_0_to_65535_and_one_where_upper_is_absent(alice: Peer, cast: Cast, ranges: Any) -> None:
    assert alice.put(1, body(cast, k7=ranges)).code == "2.01"
    assert alice.get(1).scope[7] == ranges


@pytest.mark.rows("SIG-MIT-008")
def test_a_single_port_may_be_written_with_an_equal_upper_one(alice: Peer, cast: Cast) -> None:
    alice.put(1, body(cast, k7=[{8: 80, 9: 80}]))

    assert alice.get(1).scope[7] == [{8: 80}]
    assert alice.put(1, body(cast, k7=[{8: 80}])).code == "2.04"


@pytest.mark.rows("SIG-MIT-009")
@pytest.mark.parametrize("second", [{8: 80}, {8: 80, 9: 90}])
def test_two_ranges_with_the_same_lower_port_are_refused(alice: Peer, cast: Cast, second: Any) -> None:
    assert_refused(alice, body(cast, k7=[{8: 80}, second]), "two port ranges begin at lower-port 80")


@pytest.mark.rows("SIG-MIT-010")
def test_a_protocol_above_255_is_refused(alice: Peer, cast: Cast) -> None:
    assert_refused(alice, body(cast, k10=[256]), "target-protocol is above 255")
    assert_refused(alice, body(cast, k10=[6, 1000]), "target-protocol is above 255")
    assert alice.put(1, body(cast, k10=[0, 6, 17, 255])).code == "2.01"
    assert alice.get(1).scope[10] == [0, 6, 17, 255]


def rules(alice: Peer, console: Console, mid: int) -> list[str]:
    """What stands at the enforcement point for this mitigation, in words."""
    alice.until_status(mid, 2)
    found: list[str] = console.run(RULES, client=alice.files.name, mid=mid)
    assert found
    return found


@pytest.mark.rows("SIG-MIT-010")
def test_without_a_protocol_any_is_meant(alice: Peer, bob: Peer, cast: Cast, console: Console) -> None:
    alice.put(1, body(cast))
    bob.put(1, scope(f"{cast.domain.host6}/128", k10=[6]))

    everything, tcp = rules(alice, console, 1), rules(bob, console, 1)

    assert 10 not in alice.get(1).scope
    assert any("UDP" in text for text in everything)
    assert any("TCP" in text for text in everything)
    assert any("TCP" in text for text in tcp)
    assert not any("UDP" in text for text in tcp)


# -- names, URIs and aliases


@pytest.mark.rows("SIG-MIT-028", "SIG-MIT-013")
@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("foo://{domain}/", "needs a port: the scheme foo has no known one"),
        ("/path", "is not an absolute URI with a host"),
        ("//{domain}/", "is not an absolute URI with a host"),
        ("{domain}", "is not an absolute URI with a host"),
        ("https:///path", "is not an absolute URI with a host"),
        ("https:{domain}", "is not an absolute URI with a host"),
        ("mailto:a@{domain}", "is not an absolute URI with a host"),
        ("https://{domain}:0/", "is not an absolute URI with a host"),
        ("https://{domain}:65536/", "is not an absolute URI with a host"),
        ("https://[2001:db8::1/", "is not an absolute URI with a host"),
        ("https://exa mple.com/", "is not an absolute URI with a host"),
        ("https://münchen.example/", "is not an absolute URI with a host"),
        ("https://localhost/", "is not a fully qualified domain name"),
        ("https://127.0.0.1/", "is a loopback address"),
        ("https://[ff02::1]/", "is a multicast address"),
    ],
)
def test_a_uri_that_names_no_service_is_refused(alice: Peer, cast: Cast, uri: str, words: str) -> None:
    assert_refused(alice, without(k12=[uri.format(domain=cast.domain.name)], k14=600), words)


@pytest.mark.rows("SIG-MIT-013", "SIG-MIT-020", "SIG-MIT-024")
@pytest.mark.parametrize(
    ("uri", "protocol", "port"),
    [
        ("https://{host}/", "TCP", 443),
        ("http://{host}:8080/index.html?q=1", "TCP", 8080),
        ("http://user@{host}/", "TCP", 80),
        ("coap://{host}/", "UDP", 5683),
        ("HTTPS://[{host6}]:8443/", "TCP", 8443),
    ],
)
def test_a_uri_gives_host_protocol_and_port(
    alice: Peer, cast: Cast, console: Console, uri: str, protocol: str, port: int
) -> None:
    wanted = uri.format(host=cast.domain.host, host6=cast.domain.host6)

    assert alice.put(1, without(k12=[wanted], k14=600)).code == "2.01"

    assert alice.get(1).scope[12] == [wanted]
    texts = rules(alice, console, 1)
    host = cast.domain.host6 if "[" in wanted else cast.domain.host
    assert all(host in text for text in texts)
    assert any(f"port {port}" in text for text in texts), texts
    other = {"TCP": "UDP", "UDP": "TCP"}[protocol]
    assert not any(f"{other} port {port}" in text for text in texts)


@pytest.mark.rows("SIG-MIT-028")
def test_an_unknown_scheme_with_a_port_stands_for_every_protocol(alice: Peer, cast: Cast) -> None:
    assert alice.put(1, without(k12=[f"foo://{cast.domain.host}:7777/x"], k14=600)).code == "2.01"


@pytest.mark.rows("SIG-MIT-004")
@pytest.mark.parametrize(
    "name",
    [
        "example",
        "-a.example.com",
        "a..example.com",
        "192.0.2.1",
        "a b.example.com",
        "*.example.com",
        "l" * 64 + ".example.com",
    ],
)
def test_what_is_no_domain_name_is_refused(alice: Peer, name: str) -> None:
    assert_refused(alice, without(k11=[name], k14=600), "is not a fully qualified domain name")


@pytest.mark.rows("SIG-MIT-020")
def test_prefixes_of_both_families_names_and_uris_are_scopes(alice: Peer, cast: Cast) -> None:
    targets: list[dict[str, Any]] = [
        {"k6": [prefix(cast)]},
        {"k6": [f"{cast.domain.host6}/128"]},
        {"k11": [f"www.{cast.domain.name}"]},
        {"k12": [f"https://{cast.domain.name}/"]},
    ]
    for mid, target in enumerate(targets, start=1):
        assert alice.put(mid, without(**target, k14=600)).code == "2.01"

    shown = alice.get().scopes
    for entry, target in zip(shown, targets, strict=True):
        ((key, value),) = target.items()
        assert entry[int(key[1:])] == value


@pytest.mark.rows("SIG-MIT-014")
def test_an_alias_is_its_clients_own(alice: Peer, bob: Peer, cast: Cast, console: Console) -> None:
    target = {"target-prefix": [prefix(cast)]}
    console.run(ALIAS, client=cast.alice.name, cuid=alice.cuid, alias="web", target=target)
    wanted = without(k13=["web"], k14=600)

    assert_refused(bob, wanted, "there is no alias named web of this client")
    assert_refused(alice, without(k13=["mail"], k14=600), "there is no alias named mail of this client")
    assert_refused(alice, without(k13=["web", "mail"], k14=600), "mail")
    other = alice.put(1, wanted, cuid=f"{alice.cuid}-2")
    assert (other.code, alice.get(cuid=f"{alice.cuid}-2").code) == ("4.00", "4.04")
    assert alice.put(1, wanted).code == "2.01"
    assert alice.get(1).scope[13] == ["web"]


@pytest.mark.rows("SIG-MIT-015")
def test_an_alias_adds_its_targets_to_the_others(alice: Peer, cast: Cast, console: Console) -> None:
    second = f"{cast.domain.host6}/128"
    console.run(ALIAS, client=cast.alice.name, cuid=alice.cuid, alias="both", target={"target-prefix": [prefix(cast)]})

    assert alice.put(5, scope(second, k13=["both"])).code == "2.01"

    for target in (prefix(cast), second):
        overlap = alice.put(4, scope(target))
        assert (overlap.code, overlap.scope[17][21][6]) == ("4.09", [target])
    texts = rules(alice, console, 5)
    for host in (cast.domain.host, cast.domain.host6):
        assert any(host in text for text in texts)


# -- lifetime and trigger


@pytest.mark.rows("SIG-MIT-016", "SIG-MIT-004")
@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_lifetime_is_needed(join: Join, cast: Cast, transport: str) -> None:
    alice = join("alice", transport=transport)
    assert_refused(alice, scope(prefix(cast), lifetime=None), "lifetime is missing")

    alice.put(1, body(cast))
    without_lifetime = alice.put(1, scope(prefix(cast), lifetime=None))

    assert (without_lifetime.code, without_lifetime.diagnostic) == ("4.00", "lifetime is missing")
    assert alice.put(1, scope(prefix(cast), lifetime=None, k29=1), if_match=[b""]).code == "2.04"


@pytest.mark.rows("SIG-MIT-017")
def test_lifetime_0_is_refused(alice: Peer, cast: Cast) -> None:
    assert_refused(alice, scope(prefix(cast), lifetime=0), "lifetime is 0")

    alice.put(1, body(cast))
    assert alice.put(1, scope(prefix(cast), lifetime=0)).code == "4.00"
    assert 590 <= alice.get(1).scope[14] <= 600


@pytest.mark.rows("SIG-MIT-018")
@pytest.mark.parametrize("lifetime", [-2, -600, 2**32, 2**40, -(2**40)])
def test_a_lifetime_outside_its_type_is_refused(alice: Peer, cast: Cast, lifetime: int) -> None:
    assert_refused(alice, scope(prefix(cast), lifetime=lifetime), "lifetime is not -1 and not between 1 and 4294967295")


@pytest.mark.rows("SIG-MIT-018")
@pytest.mark.parametrize("lifetime", [1, 2**32 - 1, -1])
def test_a_lifetime_at_the_ends_of_its_type_is_taken(alice: Peer, cast: Cast, lifetime: int) -> None:
    made = alice.put(1, scope(prefix(cast), lifetime=lifetime))

    assert made.code == "2.01"
    assert made.scope[14] == (1 if lifetime == 1 else 86_400)


@pytest.mark.rows("SIG-MIT-019")
def test_without_trigger_mitigation_it_starts_at_once(alice: Peer, cast: Cast) -> None:
    alice.put(1, body(cast))
    alice.put(2, scope(f"{cast.domain.host6}/128", k45=False))
    alice.put(3, scope(f"{cast.domain.host6}0/128", k45=True))

    absent, armed, asked = alice.get().scopes

    assert absent[16] in (1, 2)
    assert asked[16] in (1, 2)
    assert armed[16] == 8
    assert (45 in absent, armed[45], 45 in asked) == (False, False, False)
    alice.until_status(1, 2)
    assert alice.get(2).scope[16] == 8


# -- policy


@pytest.mark.rows("SIG-MIT-023", "SIG-PUT-013")
@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_a_domain_at_its_capacity_is_told_when_to_come_back(
    join: Join, cast: Cast, console: Console, transport: str
) -> None:
    alice, bob = join("alice", transport=transport), join("bob", transport=transport)
    console.run("Domain.objects.filter(name=name).update(maximum_mitigations=1)", name=cast.domain.name)
    assert alice.put(1, body(cast)).code == "2.01"

    refused = bob.put(1, scope(f"{cast.domain.host6}/128"))

    assert (refused.code, refused.message.opt.max_age) == ("5.03", 60)
    assert refused.diagnostic == "this domain has 1 mitigations, its maximum"
    assert bob.get(1).code == "4.04"
    assert alice.put(1, body(cast)).code == "2.04"
    assert alice.put(2, body(cast)).code == "2.01"  # it takes the place of the first


@pytest.mark.rows("SIG-MIT-024")
def test_the_scope_that_is_in_force_is_shown(alice: Peer, cast: Cast) -> None:
    wanted = {
        6: [prefix(cast), f"{cast.domain.host6}/128"],
        7: [{8: 80}, {8: 1000, 9: 2000}],
        10: [17, 6],
        11: [f"www.{cast.domain.name}"],
        12: [f"https://{cast.domain.name}/"],
        14: 600,
        45: False,
    }
    alice.put(1, cbor2.dumps({1: {2: [wanted]}}))

    for query in (["c=c"], ["c=a"], []):
        shown = alice.get(1, uri_query=query).scope
        assert {key: value for key, value in shown.items() if key in wanted and key != 14} == {
            key: value for key, value in wanted.items() if key != 14
        }
    assert not {6, 7, 10, 11, 12, 45} & set(alice.get(1, uri_query=["c=n"]).scope)


@pytest.mark.rows("SIG-MIT-026")
def test_our_client_has_no_way_to_send_what_servers_send(cast: Cast) -> None:
    names = {one.name for one in (*fields(MitigationRequest), *fields(Scope))}

    assert not names & {
        "status",
        "conflict",
        "conflict_information",
        "bytes_dropped",
        "pkts_dropped",
        "mitigation_start",
    }


def test_after_all_that_the_server_still_answers(alice: Peer, cast: Cast) -> None:
    refused = alice.ask(PUT, f"mitigate/cuid={alice.cuid}/mid=1", b"\xff" * 100)

    assert refused.code == "4.00"
    until(lambda: alice.put(1, body(cast)).code in ("2.01", "2.04"), what="an ordinary answer")
