"""Captures read back as the packets that were written into them."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rule_strategies import packets

from mitigation.rules.captures import BadCapture, Capture, read_capture
from mitigation.rules.packets import Packet, TcpFlag
from tests.harness.captures import ETHERNET, framed, pcap, pcapng, wire

SYN = Packet(IPv4Address("203.0.113.9"), IPv4Address("198.51.100.7"), 6, 40_000, 443, TcpFlag.SYN)
DNS6 = Packet(IPv6Address("2001:db8:bad::1"), IPv6Address("2001:db8:100::7"), 17, 53, 3_000)


def read(tmp_path: Path, content: bytes) -> Capture:
    path = tmp_path / "some.pcap"
    path.write_bytes(content)
    return read_capture(path)


def shown(capture: Capture, row: int = 0) -> Packet:
    """A row as the value that tests are written with."""
    is_six = capture.family[row] == 6
    address = IPv6Address if is_six else IPv4Address

    def whole(end: str) -> int:
        return int(getattr(capture, f"{end}_high")[row]) << 64 | int(getattr(capture, f"{end}_low")[row])

    def value(name: str) -> int | None:
        found = int(getattr(capture, name)[row])
        return None if found < 0 else found

    flags = value("tcp_flags")
    return Packet(
        address(whole("source")),
        address(whole("destination")),
        int(capture.protocol[row]),
        value("source_port"),
        value("port"),
        None if flags is None else TcpFlag(flags),
        value("icmp_type"),
        185 if capture.is_later_fragment[row] else 0,
    )


def as_sent(packet: Packet) -> Packet:
    return Packet(**{name: getattr(packet, name) for name in Packet.__dataclass_fields__ if name != "is_answer"})


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None)
@given(sent=st.lists(packets(), min_size=1, max_size=20), extensions=st.lists(st.sampled_from((43, 60)), max_size=3))
def test_what_was_written_is_read(tmp_path: Path, sent: list[Packet], extensions: list[int]) -> None:
    plain = [packet for packet in sent if packet.destination.version == 4 or packet.protocol != 0]
    capture = read(tmp_path, pcap((at, wire(one, extensions=extensions)) for at, one in enumerate(plain)))

    assert [shown(capture, row) for row in range(len(capture))] == [as_sent(one) for one in plain]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("packet", [SYN, DNS6], ids=["v4", "v6"])
def test_every_form_of_file_says_the_same(tmp_path: Path, order: str, packet: Packet) -> None:
    when, octets = 1_700_000_000.25, wire(packet)
    forms = [
        pcap([(when, octets)], order=order),
        pcap([(when, octets)], order=order, nanoseconds=True),
        pcapng([(when, octets)], order=order),
        pcap([(when, framed(octets))], link=ETHERNET, order=order),
        pcap([(when, framed(octets, vlans=2))], link=ETHERNET, order=order),
        pcapng([(when, framed(octets, vlans=1))], link=ETHERNET, order=order),
    ]
    for form in forms:
        capture = read(tmp_path, form)
        assert shown(capture) == packet
        assert capture.time[0] == pytest.approx(when)
        assert capture.length[0] == len(octets)


def test_linux_cooked_captures(tmp_path: Path) -> None:
    cooked = bytes(14) + b"\x08\x00" + wire(SYN)
    second = b"\x08\x00" + bytes(18) + wire(SYN)

    assert shown(read(tmp_path, pcap([(0, cooked)], link=113))) == SYN
    assert shown(read(tmp_path, pcap([(0, second)], link=276))) == SYN


def test_what_is_no_ip_packet_is_counted(tmp_path: Path) -> None:
    arp = bytes(12) + b"\x08\x06" + bytes(28)
    capture = read(tmp_path, pcap([(0, arp), (1, framed(wire(SYN))), (2, b"")], link=ETHERNET))

    assert (len(capture), capture.others) == (1, 2)


def test_a_packet_cut_before_its_ports_has_none(tmp_path: Path) -> None:
    assert shown(read(tmp_path, pcap([(0, wire(SYN))], cut=22))).destination_port is None
    assert shown(read(tmp_path, pcap([(0, wire(SYN))], cut=30))).tcp_flags is None
    assert shown(read(tmp_path, pcap([(0, wire(SYN))], cut=34))).tcp_flags == TcpFlag.SYN


@pytest.mark.parametrize("cut", [1, 10, 30, 50])
def test_a_file_that_ends_in_a_packet_is_read_to_there(tmp_path: Path, cut: int) -> None:
    for form in (pcap([(0, wire(SYN)), (1, wire(SYN))]), pcapng([(0, wire(SYN)), (1, wire(SYN))])):
        capture = read(tmp_path, form[:-cut])
        assert shown(capture) == SYN


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "it has no header"),
        (b"GIF89a" + bytes(30), "begins like neither pcap nor pcapng"),
        (pcap([(0, bytes(60))], link=127), "link type 127 is not read"),
        (pcapng([])[:28] + b"\x01\0\0\0\x03\0\0\0" + bytes(20), "is damaged at octet 28"),
    ],
)
def test_what_is_no_capture_is_refused_with_a_sentence(tmp_path: Path, content: bytes, sentence: str) -> None:
    with pytest.raises(BadCapture, match=sentence):
        read(tmp_path, content)


@given(content=st.binary(max_size=300), magic=st.sampled_from([pcap([])[:24], pcapng([])]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200, deadline=None)
def test_any_octets_are_a_capture_or_a_refusal(tmp_path: Path, content: bytes, magic: bytes) -> None:
    try:
        capture = read(tmp_path, magic + content)
    except BadCapture as refusal:
        assert "some.pcap" in str(refusal) or "link type" in str(refusal)
        return
    assert len(capture) + capture.others >= 0
