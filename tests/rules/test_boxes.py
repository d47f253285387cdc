from __future__ import annotations

from ipaddress import IPv4Address, ip_network

import pytest
from hypothesis import given
from rule_strategies import boxes, in_scope, packets, scopes

from mitigation.rules.boxes import NO_PORT, Box, TooManyBoxes, networks, scope_boxes
from mitigation.rules.packets import Packet, in_box
from mitigation.rules.scope import Scope

HOST = ip_network("198.51.100.7/32")
NET6 = ip_network("2001:db8:100::/48")
FIRST = int(IPv4Address("198.51.100.7"))


def udp(port: int | None, **more: object) -> Packet:
    return Packet(IPv4Address("203.0.113.1"), IPv4Address("198.51.100.7"), 17, 4000, port, **more)  # type: ignore[arg-type]


@given(scopes(), packets())
def test_boxes_of_a_scope_hold_exactly_its_packets_and_each_once(scope, packet):
    hits = sum(in_box(box, packet) for box in scope_boxes(scope))

    assert hits == (1 if in_scope(scope, packet) else 0)


@given(boxes(), boxes(), packets())
def test_intersection_holds_what_both_hold(one, other, packet):
    both = one.intersection(other)

    assert (both is not None and in_box(both, packet)) == (in_box(one, packet) and in_box(other, packet))


@given(boxes(), boxes())
def test_subset_is_judged_by_intersection(one, other):
    assert one.is_subset(one)
    if one.is_subset(other) and other.is_subset(one):
        assert one == other


@pytest.mark.rows("ENF-TGT-001")
def test_two_prefixes_two_ports_two_protocols_give_eight_combinations():
    scope = Scope((HOST, NET6), ((53, 53), (80, 80)), (6, 17))

    found = scope_boxes(scope)

    assert len(found) == 8
    assert {(box.family, box.protocols, box.ports) for box in found} == {
        (family, (protocol, protocol), (port, port)) for family in (4, 6) for protocol in (6, 17) for port in (53, 80)
    }


@pytest.mark.rows("ENF-TGT-003")
def test_ports_do_not_narrow_protocols_without_ports():
    found = scope_boxes(Scope((HOST,), ((80, 80),), (6, 1)))

    assert found == [Box(4, FIRST, FIRST, 6, 6, 80, 80), Box(4, FIRST, FIRST, 1, 1, NO_PORT, 65535)]


@pytest.mark.rows("ENF-TGT-004")
def test_ports_without_protocol_mean_the_four_protocols_with_ports():
    found = scope_boxes(Scope((HOST,), ((80, 80),)))

    assert [box.protocols for box in found] == [(6, 6), (17, 17), (33, 33), (132, 132)]


@pytest.mark.rows("ENF-TGT-005", "ENF-TGT-006")
def test_port_ranges_are_closed_at_both_ends():
    (box,) = scope_boxes(Scope((HOST,), ((8000, 8099),), (17,)))

    assert [in_box(box, udp(port)) for port in (7999, 8000, 8099, 8100)] == [False, True, True, False]


@pytest.mark.rows("ENF-FRG-006")
def test_later_fragments_are_outside_a_scope_with_ports_and_inside_one_without():
    later = udp(None, fragment_offset=185)
    (narrow,) = scope_boxes(Scope((HOST,), ((53, 53),), (17,)))
    (whole,) = scope_boxes(Scope((HOST,), (), (17,)))

    assert not in_box(narrow, later)
    assert in_box(whole, later)


@pytest.mark.rows("ENF-PRT-003")
def test_every_port_is_the_same_as_no_port_range_for_a_protocol_with_ports():
    assert scope_boxes(Scope((HOST,), ((0, 65535),), (17,))) == scope_boxes(Scope((HOST,), (), (17,)))


def test_overlapping_prefixes_and_ports_are_merged():
    nested = Scope((ip_network("198.51.100.0/24"), HOST), ((80, 90), (85, 95), (96, 99)), (6, 6))

    (box,) = scope_boxes(nested)

    assert (box.addresses, box.ports) == ((FIRST - 7, FIRST + 248), (80, 99))


@pytest.mark.rows("ENF-VAL-005")
def test_too_many_combinations_are_refused_by_name_before_they_are_built():
    hosts = tuple(ip_network((FIRST + 2 * number, 32)) for number in range(2, 40))
    scope = Scope(hosts, tuple((port, port) for port in range(0, 20_000, 2)))

    with pytest.raises(TooManyBoxes, match="1520000 combinations") as refusal:
        scope_boxes(scope)

    assert (refusal.value.needed, refusal.value.allowed) == (38 * 10_000 * 4, 256)


def test_networks_of_an_aligned_box_are_one_prefix():
    assert networks(Box(4, FIRST - 7, FIRST + 248)) == (ip_network("198.51.100.0/24"),)
    assert len(networks(Box(4, FIRST, FIRST + 1))) == 2


@pytest.mark.parametrize("bounds", [(4, 5, 4), (4, -1, 4), (4, 0, 2**32), (6, 0, 1, 9, 8), (6, 0, 1, 0, 1, -2, 4)])
def test_nonsense_is_no_box(bounds):
    with pytest.raises(ValueError, match="not a box"):
        Box(*bounds)


@pytest.mark.parametrize("bad", [{"port_ranges": ((9, 8),)}, {"port_ranges": ((0, 65536),)}, {"protocols": (256,)}])
def test_numbers_out_of_range_are_no_scope(bad):
    with pytest.raises(ValueError, match="is no|are no"):
        Scope((HOST,), **bad)
