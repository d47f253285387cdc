"""The rules that a lossy path and a hostile neighbour taught the engine; each test is one of them."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest
from tls_harness import Clock, Wire, closed_reasons
from tls_records import authentic, authentic_tls12, hello_extensions, kinds, message, plaintext

from mitigation.tls import CloseReason, Credentials, NotOpen, TooLarge
from mitigation.tls.datagram_connection import DatagramConnection
from mitigation.tls.events import Closed, HandshakeCompleted, PlaintextReceived
from mitigation.tls.gnutls import Alert
from mitigation.tls.records import split
from mitigation.tls.stream_connection import StreamConnection

MakeWire = Callable[..., Wire]


def connected(wire: MakeWire, **kwargs: object) -> Wire:
    made = wire(**kwargs)
    assert made.run().echoed
    return made


def said_to_server(wire: Wire) -> list[bytes]:
    return [event.data for end, event in wire.happened(PlaintextReceived) if end == "server"]


# -- 1: one record at a time ------------------------------------------------------------------------------------------


def test_a_truncated_datagram_does_not_swallow_the_record_behind_it(wire: MakeWire) -> None:
    link = connected(wire)
    whole = authentic(link.client, 23, b"after", 1000)

    link.inject("server", whole[:20])
    link.inject("server", whole)

    assert said_to_server(link)[-1] == b"after"


def test_several_records_in_one_datagram_all_arrive(wire: MakeWire) -> None:
    link = connected(wire)

    link.inject("server", b"".join(authentic(link.client, 23, b"%d" % i, 1000 + i) for i in range(5)))

    assert said_to_server(link)[-5:] == [b"0", b"1", b"2", b"3", b"4"]


@pytest.mark.rows("SIG-TLS-010")
def test_a_replayed_record_is_ignored(wire: MakeWire) -> None:
    link = connected(wire)
    records = [authentic(link.client, 23, b"%d" % i, 1000 + i) for i in range(100)]

    for record in (*records, records[99], records[98], records[50], records[1]):
        link.inject("server", record)

    assert said_to_server(link)[1:] == [b"%d" % i for i in range(100)]


# -- 2: one flight, one datagram --------------------------------------------------------------------------------------


def test_the_servers_last_flight_is_one_datagram(wire: MakeWire) -> None:
    """A GnuTLS 3.7 client stalls for ever when the Finished comes alone between two of its polls."""
    link = connected(wire)

    flights = [kinds(datagram) for datagram in link.sent["server"]]

    assert ["22.0:4", "20.0", "22.1"] in flights


@pytest.mark.rows("SIG-TLS-028", "SIG-TLS-029")
def test_no_datagram_exceeds_the_path_mtu_without_its_headers(wire: MakeWire) -> None:
    link = connected(wire)

    link.client.send(b"x" * link.client.data_mtu)
    sizes = [len(datagram) for end in link.sent.values() for datagram in end]
    sizes += [len(datagram) for datagram in link.client.datagrams_to_send()]

    assert max(sizes) == 1280 - 48


def test_a_message_above_the_data_mtu_is_refused_and_the_session_lives(wire: MakeWire) -> None:
    link = connected(wire)

    with pytest.raises(TooLarge):
        link.client.send(b"x" * (link.client.data_mtu + 1))

    link.client.send(b"short")
    link.inject("server", link.client.datagrams_to_send()[0])
    assert said_to_server(link)[-1] == b"short"


# -- 3: late repeats of Finished --------------------------------------------------------------------------------------


@pytest.mark.parametrize("late", [20, 31, 61, 3600])
def test_a_finished_repeated_late_does_not_end_the_session(wire: MakeWire, late: int) -> None:
    link = wire(talk=False).run(lambda wire: wire.client.established)
    server = link.server
    assert server is not None and server.established
    Clock.now += late

    link.inject("server", authentic(link.client, 22, message(20, 6, b"x" * 12), 900))
    link.inject("server", authentic(link.client, 23, b"still there", 901))

    assert said_to_server(link) == [b"still there"]


# -- 4: the last flight is repeated until data proves that it arrived -------------------------------------------------


def test_the_last_flight_is_repeated_byte_for_byte_on_schedule(wire: MakeWire) -> None:
    times: list[float] = []
    final: list[bytes] = []

    def fate(sender: str, number: int, datagram: bytes) -> list[float]:
        if sender == "server" and "22.1" in kinds(datagram):
            times.append(Clock.now)
            final.append(datagram)
            return []
        return [] if sender == "client" and number > 2 else [0.0]  # the client never says anything again

    wire(fate=fate).run(lambda wire: False, limit=74)

    assert [round(moment - times[0]) for moment in times] == [0, 1, 3, 7, 15, 31, 47, 60]
    assert len(set(final)) == 1


def test_the_last_flight_is_not_repeated_once_data_came(wire: MakeWire) -> None:
    link = connected(wire)
    assert link.server is not None
    sent = len(link.sent["server"])

    link.run(lambda wire: False, limit=70)

    assert link.server.get_timer() is None
    assert len(link.sent["server"]) == sent


def test_a_client_repeats_its_last_flight_of_a_resumption(wire: MakeWire) -> None:
    ticket = connected(wire).client.session_ticket()
    lost: list[bytes] = []

    def fate(sender: str, number: int, datagram: bytes) -> list[float]:
        if sender == "client" and "22.1" in kinds(datagram) and not lost:
            lost.append(datagram)
            return []
        return [0.0]

    link = wire(ticket=ticket, fate=fate).run()

    assert link.echoed and len(lost) == 1
    assert lost[0] in link.sent["client"][3:]


# -- 5: what comes early is held --------------------------------------------------------------------------------------


def test_a_finished_that_overtakes_its_flight_is_held_and_used(wire: MakeWire) -> None:
    def fate(sender: str, number: int, datagram: bytes) -> list[float]:
        return [] if (sender, number) == ("client", 2) else [0.0]

    link = wire(fate=fate).run(lambda wire: len(wire.sent["client"]) > 2)
    flight = list(split(link.sent["client"][2]))

    for record in reversed(flight):
        link.inject("server", record)
    for record in flight[:-1]:
        link.inject("server", record)
    link.run()

    assert link.echoed
    assert link.elapsed < 0.5


def test_no_more_than_four_early_records_are_held(wire: MakeWire) -> None:
    link = wire(fate=lambda sender, number, datagram: [] if (sender, number) == ("client", 2) else [0.0])
    link.run(lambda wire: len(wire.sent["client"]) > 2)
    assert link.server is not None

    for number in range(50):
        link.inject("server", plaintext(23, b"A" * 60, sequence=number, epoch=1))

    assert len(link.server._held) == 4
    assert link.run().echoed


# -- 6: a repeated hello is answered ----------------------------------------------------------------------------------


def test_a_repeated_hello_gets_the_flight_again_but_not_twice_in_half_a_second(wire: MakeWire) -> None:
    link = wire(fate=lambda sender, number, datagram: [] if sender == "server" and number else [0.0])
    link.run(lambda wire: len(wire.sent["server"]) == 2)
    hello, flight = link.sent["client"][1], link.sent["server"][1]

    answers = []
    for step in (0.2, 0.4, 0.1, 0.1):  # the engine's own timer would only fire after a second
        Clock.now += step
        link.inject("server", hello)
        answers.append(link.sent["server"].count(flight))

    assert answers == [1, 2, 2, 2]


# -- 7: nothing unauthenticated reaches a half-open engine ------------------------------------------------------------

CERTIFICATE = 11
HOSTILE = {
    "heartbeat": [plaintext(24, b"\1\0\0" + b"P" * 16)],
    "application data": [plaintext(23, b"hello")],
    "warning": [plaintext(21, b"\1\x5a")],
    "close_notify": [plaintext(21, b"\1\0")],
    "fatal alert": [plaintext(21, b"\2\x28")],
    "cipher change": [plaintext(20, b"\1", sequence=50 + i) for i in range(50)],
    "high record number": [plaintext(20, b"\1", sequence=1 << 30)],
    "noise": [plaintext(22, b"\xff" * 40)],
    "length of 16 MB": [plaintext(22, message(CERTIFICATE, 2, b"\xff\xff\xfc\xff\xff\xf9\x30", length=0xFFFFFF))],
    "eight messages from the future": [
        plaintext(22, message(CERTIFICATE, 3 + i, b"A" * 10), sequence=50 + i) for i in range(8)
    ],
    "beyond its length": [plaintext(22, message(CERTIFICATE, 2, b"A" * 10, length=10, offset=8))],
    "less than it claims": [plaintext(22, message(CERTIFICATE, 2, b"A" * 10)[:-5])],
    "HelloRequest": [plaintext(22, message(0, 2, b""))],
    "bogus certificate": [plaintext(22, message(CERTIFICATE, 2, b"A" * 10))],
    "record above 16 kB": [plaintext(22, b"A" * 19000)],
    "noise of the next epoch": [plaintext(22, b"A" * 60, epoch=1)],
    "empty handshake record": [plaintext(22, b"")],
    "five bytes": [b"\x16\xfe\xfd\0\0"],
    "unknown content type": [plaintext(99, b"x")],
}


@pytest.mark.rows("SIG-TLS-034")
@pytest.mark.parametrize("name", HOSTILE)
def test_a_half_open_server_survives(wire: MakeWire, name: str) -> None:
    link = wire(fate=lambda sender, number, datagram: [0.5] if (sender, number) == ("client", 2) else [0.0])
    link.run(lambda wire: len(wire.sent["client"]) > 2)

    for datagram in HOSTILE[name]:
        link.inject("server", datagram)
    link.run()

    assert link.echoed
    assert link.elapsed < 0.7


@pytest.mark.parametrize("name", [name for name in HOSTILE if name not in ("bogus certificate",)])
def test_a_half_open_client_survives(wire: MakeWire, name: str) -> None:
    link = wire(fate=lambda sender, number, datagram: [0.5] if (sender, number) == ("server", 1) else [0.0])
    link.run(lambda wire: len(wire.sent["server"]) > 1)

    for datagram in HOSTILE[name]:
        link.inject("client", datagram)
    link.run()

    assert link.echoed


@pytest.mark.rows("SIG-TLS-034")
@pytest.mark.parametrize("name", HOSTILE)
def test_a_live_session_survives(wire: MakeWire, name: str) -> None:
    link = connected(wire)

    for end in ("server", "client"):
        for datagram in HOSTILE[name]:
            link.inject(end, datagram)
    link.inject("server", authentic(link.client, 23, b"still there", 5000))

    assert said_to_server(link)[-1] == b"still there"


def test_a_client_believes_a_plaintext_alert_only_when_nothing_better_comes(wire: MakeWire) -> None:
    link = wire(fate=lambda sender, number, datagram: [0.0] if sender == "client" or number == 0 else [])
    link.run(lambda wire: len(wire.sent["server"]) > 1)

    link.inject("client", plaintext(21, b"\2\x30"))
    link.run(lambda wire: wire.client.closed)

    assert [event.alert for _, event in link.happened(Closed)] == ["CA is unknown"]
    assert 0.9 < link.elapsed < 1.5


def test_a_half_open_handshake_ends_after_75_seconds(wire: MakeWire) -> None:
    link = wire(fate=lambda sender, number, datagram: [] if sender == "client" and number >= 2 else [0.0])
    link.client.LONGEST_BACK_OFF = 1000.0

    link.run(lambda wire: wire.server is not None and wire.server.closed, limit=100)

    assert closed_reasons(link, "server") == [CloseReason.TIMED_OUT]
    assert 75 <= link.elapsed < 76


# -- authentic, and still odd -----------------------------------------------------------------------------------------

ODD = {
    "heartbeat of length zero": (24, b"\1\0\0" + b"P" * 16),
    "heartbeat response of length zero": (24, b"\2\0\0" + b"P" * 16),
    "heartbeat that lies about its length": (24, b"\1\x40\0" + b"P" * 16),
    "unknown content type": (99, b"ping"),
    "unknown warning": (21, b"\1\x5a"),
    "cipher change": (20, b"\1"),
    "handshake noise": (22, message(20, 7, b"x" * 12)),
    "renegotiation": (22, message(1, 0, b"x" * 40)),
    "empty application data": (23, b""),
}


@pytest.mark.rows("SIG-TLS-033")
@pytest.mark.parametrize("name", ODD)
def test_an_authenticated_peer_cannot_hurt_a_dtls_session_with(wire: MakeWire, name: str) -> None:
    link = connected(wire)
    content_type, payload = ODD[name]

    link.inject("server", authentic(link.client, content_type, payload, 1000))
    link.inject("server", authentic(link.client, 23, b"still there", 1001))

    assert said_to_server(link)[-1] == b"still there"


@pytest.mark.rows("SIG-TLS-033")
@pytest.mark.parametrize("name", [name for name in ODD if "heartbeat" in name])
def test_a_heartbeat_that_gets_past_the_filter_is_one_lost_record(wire: MakeWire, name: str) -> None:
    link = connected(wire)
    assert link.server is not None
    content_type, payload = ODD[name]

    link.server._pump(authentic(link.client, content_type, payload, 1000))
    link.inject("server", authentic(link.client, 23, b"still there", 1001))

    assert link.server.dropped["unexpected record"] == 1
    assert said_to_server(link)[-1] == b"still there"


@pytest.mark.rows("SIG-TLS-033")
@pytest.mark.parametrize("name", [name for name in ODD if "heartbeat" in name])
def test_a_heartbeat_over_tls_ends_at_most_its_own_connection(
    server_credentials: Credentials, shared_pki: object, name: str
) -> None:
    """The library aborts the process on this input when the extension is enabled; it must not be."""
    client = Credentials(
        shared_pki.issue("hb"), tls_priorities="NORMAL:-VERS-ALL:+VERS-TLS1.2:-CIPHER-ALL:+AES-128-GCM"
    )
    near, far = stream_pair(server_credentials, client)
    content_type, payload = ODD[name]

    far.receive_data(authentic_tls12(near, content_type, payload, 1))

    other_near, other_far = stream_pair(server_credentials, client)
    other_near.send(b"others live on")
    other_far.receive_data(other_near.data_to_send())
    assert PlaintextReceived(b"others live on") in drain(other_far)


def stream_pair(server: Credentials, client: Credentials) -> tuple[StreamConnection, StreamConnection]:
    """(client, server), connected."""
    near = StreamConnection(client, server=False, name="server.example")
    far = StreamConnection(server, server=True)
    for _ in range(10):
        far.receive_data(near.data_to_send())
        if data := far.data_to_send():
            near.receive_data(data)
        if near.established and far.established:
            break
    assert near.established and far.established
    drain(near), drain(far)
    return near, far


def drain(connection: StreamConnection | DatagramConnection) -> list[object]:
    events = []
    while (event := connection.next_event()) is not None:
        events.append(event)
    return events


@pytest.mark.rows("SIG-TLS-033", "SIG-TLS-022", "SIG-TLS-024", "SIG-TLS-002", "SIG-TLS-009", "SIG-TCP-004")
def test_what_our_hellos_offer(wire: MakeWire, alice: Credentials, server_credentials: Credentials) -> None:
    first = connected(wire)
    second = connected(wire, ticket=first.client.session_ticket())
    stream = StreamConnection(alice, server=False, name="server.example").data_to_send()
    near, _ = stream_pair(server_credentials, alice)
    again = StreamConnection(alice, server=False, name="server.example", ticket=near.session_ticket()).data_to_send()

    offers = [
        hello_extensions(second.sent["client"][0], datagram=True),
        hello_extensions(stream, datagram=False),
        hello_extensions(again, datagram=False),
    ]

    heartbeat, compress_certificate, early_data, alpn, server_name, pre_shared_key = 15, 27, 42, 16, 0, 41
    for extensions in offers:
        assert not {heartbeat, compress_certificate, early_data} & set(extensions)
        assert extensions[server_name].endswith(b"server.example")
    assert alpn not in offers[0]
    assert offers[1][alpn] == b"\0\5\4coap"
    assert pre_shared_key in offers[2]


# -- the life of handles ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_nothing_is_freed_under_a_handshake(wire: MakeWire) -> None:
    def fate(sender: str, number: int, datagram: bytes) -> list[float]:
        gc.collect()
        return [0.0]

    assert wire(fate=fate).run().echoed


def test_a_closed_connection_is_harmless(wire: MakeWire) -> None:
    link = connected(wire)
    server = link.server
    assert server is not None
    record = authentic(link.client, 23, b"late", 1000)
    server.close()
    server.close()
    server.abort()

    server.receive_datagram(record, now=Clock.now)
    server.on_timer(Clock.now)

    assert server.next_event() is None
    assert server.get_timer() is None
    with pytest.raises(NotOpen):
        server.send(b"x")


def test_close_notify_reaches_the_peer_as_such(wire: MakeWire) -> None:
    link = connected(wire)

    link.client.close()
    for datagram in link.client.datagrams_to_send():
        link.inject("server", datagram)

    assert closed_reasons(link, "server") == [CloseReason.PEER_CLOSED]


def test_a_refusal_after_the_handshake_rides_in_the_last_flight(
    wires: Callable[..., Wire], server_credentials: Credentials, alice: Credentials
) -> None:
    """So that a client learns of it before it believes to be connected."""

    class Refusing(Wire):
        def _react(self, end: str, connection: DatagramConnection, event: object) -> None:
            if end == "server" and isinstance(event, HandshakeCompleted):
                connection.abort(Alert.ACCESS_DENIED)
                return
            super()._react(end, connection, event)

    link = Refusing(server_credentials, alice).run(lambda wire: wire.client.closed)
    link.close()

    assert ["22.0:4", "20.0", "22.1", "21.1"] in [kinds(datagram) for datagram in link.sent["server"]]
    assert [event.alert for end, event in link.happened(Closed) if end == "client"] == ["Access was denied"]
