"""Many associations behind one socket, in memory: cookies, old hellos, replacement, limits."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from tls_harness import Clock, virtual_time
from tls_records import authentic, kinds, plaintext

from mitigation.tls import Alert, CloseReason, Credentials, Identity
from mitigation.tls.datagram_connection import DatagramConnection
from mitigation.tls.demultiplexer import Association, Demultiplexer, Path
from mitigation.tls.events import Closed, HandshakeCompleted

SOCKET = object()


def path(port: int, host: str = "192.0.2.1") -> Path:
    return Path(SOCKET, (host, port), b"")


class Town:
    """A table with its listener, and clients who talk to it without delay."""

    def __init__(self, credentials: Credentials, **limits: int) -> None:
        self.table = Demultiplexer(credentials, self, **limits)
        self.sent: list[tuple[Path, bytes]] = []
        self.welcome: Callable[[Identity], bool] = lambda identity: True
        self.asked: list[str] = []
        self.opened_: list[Association] = []
        self.heard: list[tuple[Association, bytes]] = []
        self.closed_: list[tuple[Association, CloseReason]] = []

    def transmit(self, path: Path, datagram: bytes) -> None:
        self.sent.append((path, datagram))

    def authorise(self, identity: Identity) -> bool:
        self.asked.append(identity.subject)
        return self.welcome(identity)

    def opened(self, association: Association) -> None:
        self.opened_.append(association)

    def received(self, association: Association, data: bytes) -> None:
        self.heard.append((association, data))

    def closed(self, association: Association, reason: CloseReason, detail: str) -> None:
        self.closed_.append((association, reason))

    def give(self, datagram: bytes, at: Path) -> list[bytes]:
        """Let a datagram arrive; the answers to that path."""
        before = len(self.sent)
        self.table.receive_datagram(datagram, at, now=Clock.now)
        return [data for where, data in self.sent[before:] if where == at]

    def wait(self, seconds: float) -> None:
        end = Clock.now + seconds
        while (due := self.table.get_timer()) is not None and due <= end:
            Clock.now = max(Clock.now, due)
            self.table.on_timer(Clock.now)
        Clock.now = end


class Client:
    """A client engine on one path."""

    def __init__(self, town: Town, credentials: Credentials, at: Path, ticket: bytes | None = None) -> None:
        self.town, self.path = town, at
        self.engine = DatagramConnection(credentials, server=False, now=Clock.now, name="server.example", ticket=ticket)
        self.waiting = self.engine.datagrams_to_send()
        self.events: list[object] = []

    def step(self) -> list[bytes]:
        """Send what waits and take in the answers; what was sent."""
        sent, self.waiting = self.waiting, []
        for datagram in sent:
            for answer in self.town.give(datagram, self.path):
                self.engine.receive_datagram(answer, now=Clock.now)
                self.waiting += self.engine.datagrams_to_send()
        while (event := self.engine.next_event()) is not None:
            self.events.append(event)
        return sent

    def connect(self) -> Client:
        for _ in range(6):
            self.step()
        assert self.engine.established
        return self

    def say(self, data: bytes) -> None:
        self.engine.send(data)
        self.waiting += self.engine.datagrams_to_send()
        self.step()

    @property
    def ending(self) -> Closed | None:
        return next((event for event in self.events if isinstance(event, Closed)), None)


@pytest.fixture
def town(server_credentials: Credentials) -> Iterator[Town]:
    with virtual_time():
        made = Town(server_credentials)
        yield made
        made.table.close()


def test_two_clients_do_not_hear_each_other(town: Town, alice: Credentials) -> None:
    one, two = Client(town, alice, path(1)).connect(), Client(town, alice, path(2)).connect()

    one.say(b"one")
    two.say(b"two")

    assert [data for _, data in town.heard] == [b"one", b"two"]
    assert town.heard[0][0] is not town.heard[1][0]
    assert len(town.table) == 2 and town.table.half_open == 0


# -- cookies ----------------------------------------------------------------------------------------------------------


@pytest.mark.rows("SIG-TLS-001")
def test_a_spoofed_hello_leaves_no_state_and_is_not_amplified(town: Town, alice: Credentials) -> None:
    hello = Client(town, alice, path(1)).waiting[0]

    answers = [town.give(hello, path(port)) for port in range(1, 200)]

    assert all(len(answer) == 1 and kinds(answer[0]) == ["22.0:3"] for answer in answers)
    assert all(len(answer[0]) <= len(hello) for answer in answers)
    assert len(town.table) == town.table.half_open == 0 and town.table.get_timer() is None


def test_the_shortest_hello_is_still_longer_than_its_answer(town: Town) -> None:
    body = b"\xfe\xfd" + b"R" * 32 + b"\0\0"
    hello = plaintext(22, b"\1" + len(body).to_bytes(3, "big") + b"\0" * 5 + len(body).to_bytes(3, "big") + body)

    answers = town.give(hello, path(1))

    assert len(hello) == 61
    assert sum(len(answer) for answer in answers) <= len(hello)


def test_a_cookie_holds_only_for_its_own_address(town: Town, alice: Credentials) -> None:
    client = Client(town, alice, path(1))
    client.step()
    (hello,) = client.waiting

    elsewhere = [town.give(hello, where) for where in (path(2), path(1, "192.0.2.2"))]

    assert all(kinds(answer[0]) == ["22.0:3"] for answer in elsewhere)
    assert town.table.half_open == 0
    assert town.give(hello, path(1)) and town.table.half_open == 1


def test_a_cookie_of_one_worker_holds_on_another(town: Town, alice: Credentials, shared_pki: object) -> None:
    other = Town(Credentials(shared_pki.issue_server("twin"), ticket_key=b"t" * 64, cookie_key=b"c" * 16))
    client = Client(town, alice, path(1))
    client.step()
    client.town = other

    client.connect()

    assert len(other.table) == 1 and town.table.half_open == 0


@pytest.mark.parametrize(
    "junk",
    [b"", b"\x16", b"GET / HTTP/1.1\r\n\r\n", bytes(13), b"\x16\xfe\xfd" + bytes(80), b"\x40\x01\x00\x01\xb1a" * 20],
)
@pytest.mark.rows("SIG-TRN-005")
def test_junk_gets_no_answer_and_no_state(town: Town, junk: bytes) -> None:
    assert town.give(junk, path(1)) == []
    assert town.table.half_open == 0


# -- a live path ------------------------------------------------------------------------------------------------------


def test_a_new_handshake_on_a_live_path_replaces_the_old_session_only_when_complete(
    town: Town, alice: Credentials
) -> None:
    old = Client(town, alice, path(1)).connect()
    old.say(b"before")
    new = Client(town, alice, path(1))
    new.step(), new.step()
    assert town.table.half_open == 1

    old.say(b"during")
    assert [data for _, data in town.heard] == [b"before", b"during"] and not town.closed_
    new.connect()
    new.say(b"after")

    assert town.closed_ == [(town.opened_[0], CloseReason.REPLACED)]
    assert town.heard[-1] == (town.opened_[1], b"after")
    assert len(town.table) == 1


def test_an_abandoned_handshake_on_a_live_path_leaves_the_session_alone(town: Town, alice: Credentials) -> None:
    old = Client(town, alice, path(1)).connect()
    old.say(b"before")
    new = Client(town, alice, path(1))
    new.step(), new.step()

    town.wait(80)
    old.say(b"still here")

    assert town.heard[-1][1] == b"still here"
    assert town.table.half_open == 0 and not town.closed_


def test_a_goodbye_is_heard_while_another_handshake_is_under_way(town: Town, alice: Credentials) -> None:
    old = Client(town, alice, path(1)).connect()
    new = Client(town, alice, path(1))
    new.step(), new.step()

    old.engine.close()
    old.waiting = old.engine.datagrams_to_send()
    old.step()
    new.connect()

    assert town.closed_ == [(town.opened_[0], CloseReason.PEER_CLOSED)]
    assert len(town.table) == 1


def test_a_late_copy_of_the_hello_already_served_is_ignored(town: Town, alice: Credentials) -> None:
    client = Client(town, alice, path(1))
    client.step()
    (hello,) = client.waiting
    client.connect()

    assert town.give(hello, path(1)) == []
    assert town.table.half_open == 0


def test_an_old_hello_with_a_good_cookie_does_not_disturb_a_running_handshake(town: Town, alice: Credentials) -> None:
    earlier = Client(town, alice, path(1))
    earlier.step()
    (old_hello,) = earlier.waiting
    client = Client(town, alice, path(1))
    client.step(), client.step()

    for _ in range(20):
        Clock.now += 0.05
        assert town.give(old_hello, path(1)) == []
    client.connect()

    assert len(town.table) == 1


@pytest.mark.parametrize("stage", ["half-open", "live"])
def test_another_hello_silences_repeats_on_its_path(town: Town, alice: Credentials, stage: str) -> None:
    """A client that began anew would take the old flight for an answer to its own hello."""
    crashed = Client(town, alice, path(1))
    for _ in range(2 if stage == "half-open" else 3):
        crashed.step()
    assert len(town.table) == (stage == "live")
    town.wait(0.5)
    Client(town, alice, path(1)).step()
    sent = len(town.sent)

    town.wait(1.9)
    assert len(town.sent) == sent
    town.wait(10)

    assert len(town.sent) > sent


def test_a_client_that_starts_again_gets_in_once_its_old_handshake_is_stuck(town: Town, alice: Credentials) -> None:
    crashed = Client(town, alice, path(1))
    crashed.step(), crashed.step()
    again = Client(town, alice, path(1))
    again.step()
    Clock.now += 3

    again.connect()

    assert len(town.table) == 1 and town.table.half_open == 0


# -- who decides ------------------------------------------------------------------------------------------------------


@pytest.mark.rows("SIG-AUT-001", "SIG-TLS-037")
def test_who_is_not_authorised_is_told_so_and_opens_nothing(town: Town, alice: Credentials) -> None:
    ticket = Client(town, alice, path(1)).connect().engine.session_ticket()
    town.welcome = lambda identity: False

    full, resumed = Client(town, alice, path(2)), Client(town, alice, path(3), ticket)
    for client in (full, resumed):
        for _ in range(6):
            client.step()

    assert town.asked == ["CN=alice"] * 3
    assert len(town.opened_) == 1
    assert full.ending.alert == resumed.ending.alert == "Access was denied"


def test_a_decision_that_fails_refuses(town: Town, alice: Credentials) -> None:
    def fail(identity: Identity) -> bool:
        raise RuntimeError("the table of credentials is gone")

    town.welcome = fail
    client = Client(town, alice, path(1))

    with pytest.raises(RuntimeError):
        client.connect()

    assert len(town.table) == town.table.half_open == 0 and not town.opened_


def test_a_session_cut_from_within_a_message_is_gone_at_once(town: Town, alice: Credentials) -> None:
    client = Client(town, alice, path(1)).connect()
    original = town.received

    def received(association: Association, data: bytes) -> None:
        original(association, data)
        town.table.cut(association, CloseReason.REVOKED, alert=Alert.ACCESS_DENIED)

    town.received = received
    both = authentic(client.engine, 23, b"first", 100) + authentic(client.engine, 23, b"second", 101)

    answers = town.give(both, path(1))

    assert [data for _, data in town.heard] == [b"first"]
    assert town.closed_ == [(town.opened_[0], CloseReason.REVOKED)]
    client.engine.receive_datagram(answers[-1], now=Clock.now)
    client.step()
    assert client.ending.alert == "Access was denied"


def test_a_peer_that_says_goodbye_is_forgotten(town: Town, alice: Credentials) -> None:
    client = Client(town, alice, path(1)).connect()

    client.engine.close()
    client.waiting = client.engine.datagrams_to_send()
    client.step()

    assert town.closed_ == [(town.opened_[0], CloseReason.PEER_CLOSED)]
    assert len(town.table) == 0


def test_words_before_a_goodbye_in_one_datagram_are_heard(town: Town, alice: Credentials) -> None:
    client = Client(town, alice, path(1)).connect()
    client.engine.send(b"last words")
    client.engine.close()

    town.give(b"".join(client.engine.datagrams_to_send()), path(1))

    assert town.heard[-1][1] == b"last words"
    assert town.closed_[-1][1] is CloseReason.PEER_CLOSED


@pytest.mark.rows("SIG-TLS-031", "SIG-TLS-034")
def test_records_of_another_session_are_ignored(town: Town, alice: Credentials) -> None:
    one, two = Client(town, alice, path(1)).connect(), Client(town, alice, path(2)).connect()

    town.give(authentic(two.engine, 23, b"stolen path", 100), path(1))
    town.give(authentic(two.engine, 21, b"\1\0", 101), path(1))
    one.say(b"mine")

    assert [data for _, data in town.heard] == [b"mine"]
    assert not town.closed_


# -- limits -----------------------------------------------------------------------------------------------------------


def test_half_open_handshakes_are_limited_and_the_oldest_mute_one_makes_room(
    server_credentials: Credentials, alice: Credentials
) -> None:
    with virtual_time():
        town = Town(server_credentials, half_open=5)
        for port in range(5):
            mute = Client(town, alice, path(port))
            mute.step(), mute.step()
        refused = Client(town, alice, path(10))
        refused.step(), refused.step()
        assert town.table.half_open == 5
        assert town.table.statistics["refused: too many handshakes"] == 1

        Clock.now += 6
        Client(town, alice, path(11)).connect()

        assert town.table.half_open == 4
        assert town.table.statistics["handshakes evicted"] == 1
        town.table.close()


def test_sessions_are_limited_but_a_known_path_may_begin_anew(
    server_credentials: Credentials, alice: Credentials
) -> None:
    with virtual_time():
        town = Town(server_credentials, sessions=2)
        for port in range(2):
            Client(town, alice, path(port)).connect()
        refused = Client(town, alice, path(2))
        for _ in range(5):
            refused.step()

        Client(town, alice, path(1)).connect()

        assert not refused.engine.established
        assert len(town.table) == 2
        assert town.table.statistics["refused: too many sessions"] == 1
        town.table.close()


def test_half_open_handshakes_end_after_75_seconds(town: Town, alice: Credentials) -> None:
    client = Client(town, alice, path(1))
    client.step(), client.step()

    town.wait(74)
    assert town.table.half_open == 1
    town.wait(2)

    assert town.table.half_open == 0
    assert town.table.statistics["handshakes timed out"] == 1
    assert town.table.get_timer() is None


def test_closing_the_table_says_goodbye_to_everyone(town: Town, alice: Credentials) -> None:
    clients = [Client(town, alice, path(port)).connect() for port in range(3)]
    mute = Client(town, alice, path(9))
    mute.step(), mute.step()

    town.table.close()

    assert [reason for _, reason in town.closed_] == [CloseReason.SHUTDOWN] * 3
    for client in clients:
        goodbye = next(data for where, data in reversed(town.sent) if where == client.path)
        client.engine.receive_datagram(goodbye, now=Clock.now)
        client.step()
        assert client.ending.reason is CloseReason.PEER_CLOSED
    assert town.table.half_open == len(town.table) == 0


@pytest.mark.rows("SIG-TLS-011")
def test_a_session_resumes_and_carries_data(town: Town, alice: Credentials) -> None:
    first = Client(town, alice, path(1)).connect()

    second = Client(town, alice, path(2), first.engine.session_ticket()).connect()
    second.say(b"signal")

    assert [event.resumed for event in second.events if isinstance(event, HandshakeCompleted)] == [True]
    assert town.heard == [(town.opened_[1], b"signal")]
    assert town.table.statistics["handshakes resumed"] == 1
