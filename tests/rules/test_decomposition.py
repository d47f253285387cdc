from __future__ import annotations

import gc
import time
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rule_strategies import BASE4, boxes, packets

from mitigation.rules.boxes import NO_PORT, Box
from mitigation.rules.decomposition import decompose, overlapping
from mitigation.rules.packets import in_box

wishes = st.dictionaries(st.sampled_from("abcd"), st.lists(boxes(), max_size=3), max_size=4)


@given(wishes, packets())
def test_a_packet_lies_in_one_piece_owned_by_exactly_those_who_want_it(wanted, packet):
    owners = {owner for owner, wanted_boxes in wanted.items() if any(in_box(box, packet) for box in wanted_boxes)}

    found = [piece_owners for box, piece_owners in decompose(wanted) if in_box(box, packet)]

    assert found == ([owners] if owners else [])


@given(wishes)
def test_pieces_are_disjoint(wanted):
    pieces = [box for box, _ in decompose(wanted)]

    assert all(one.intersection(other) is None for one, other in combinations(pieces, 2))


@given(wishes)
def test_each_owner_gets_back_the_volume_of_its_union(wanted):
    for owner, wanted_boxes in wanted.items():
        union = sum(box.size for box, _ in decompose({owner: wanted_boxes}))

        assert sum(box.size for box, owners in decompose(wanted) if owner in owners) == union


@given(wishes)
def test_taking_apart_twice_changes_nothing(wanted):
    once = decompose(wanted)

    assert decompose({number: [box] for number, (box, _) in enumerate(once)}) == [
        (box, frozenset((number,))) for number, (box, _) in enumerate(once)
    ]


def test_a_host_inside_a_network_counts_for_both():
    network, host = Box(4, BASE4, BASE4 + 255), Box(4, BASE4 + 7, BASE4 + 7)

    assert decompose({"network": [network], "host": [host]}) == [
        (Box(4, BASE4, BASE4 + 6), frozenset({"network"})),
        (Box(4, BASE4 + 7, BASE4 + 7), frozenset({"network", "host"})),
        (Box(4, BASE4 + 8, BASE4 + 255), frozenset({"network"})),
    ]


def test_cutting_out_a_port_leaves_the_fragments_with_the_one_who_wanted_them():
    whole, dns = Box(4, 1, 1, 17, 17), Box(4, 1, 1, 17, 17, 53, 53)

    assert decompose({"whole": [whole], "dns": [dns]}) == [
        (Box(4, 1, 1, 17, 17, NO_PORT, 52), frozenset({"whole"})),
        (Box(4, 1, 1, 17, 17, 53, 53), frozenset({"whole", "dns"})),
        (Box(4, 1, 1, 17, 17, 54, 65535), frozenset({"whole"})),
    ]


def test_equal_wishes_stay_one_box():
    box = Box(6, 10, 20, 6, 6, 443, 443)

    assert decompose({"a": [box], "b": [box, box]}) == [(box, frozenset({"a", "b"}))]


def test_neighbours_of_one_owner_are_joined():
    assert decompose({"a": [Box(4, 1, 1), Box(4, 2, 2)]}) == [(Box(4, 1, 2), frozenset({"a"}))]


def test_overlapping_names_those_that_meet():
    apart, one, other = Box(4, 1, 1), Box(4, 5, 9), Box(4, 9, 12)

    assert overlapping([apart, one, other]) == [one, other]
    assert overlapping([apart, one]) == []


def separate_hosts(count: int) -> dict[object, list[Box]]:
    return {number: [Box(4, 2 * number, 2 * number, 17, 17, 53, 53)] for number in range(count)}


def hosts_in_one_network(count: int) -> dict[object, list[Box]]:
    return {number: [Box(4, 2 * number, 2 * number)] for number in range(count)} | {"all": [Box(4, 0, 2**20)]}


@pytest.mark.parametrize(("hosts", "pieces_each"), [(separate_hosts, 1), (hosts_in_one_network, 2)])
@pytest.mark.slow
def test_ten_times_the_hosts_take_ten_times_as_long(hosts, pieces_each):
    def seconds(count: int) -> float:
        wanted = hosts(count)
        gc.collect()
        gc.disable()  # its share grows with all that a whole run of tests has left
        started = time.process_time()
        pieces = decompose(wanted)
        spent = time.process_time() - started
        gc.enable()
        assert len(pieces) == pieces_each * count
        return spent

    few, many = min(seconds(1_000) for _ in range(3)), min(seconds(10_000) for _ in range(2))
    print(f"\n10,000 hosts taken apart in {many:.3f} s of a core, 1,000 in {few:.3f} s")
    assert many < 30 * few, "a hundred times would be a search among all the others for each"
