"""Which fault gets which code, and which goes first (RFC 9132, section 9; RFC 7252, section 5.4)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import cbor2
import pytest
from aiocoap import GET, POST, PUT, Code, Message
from aiocoap.numbers.optionnumbers import OptionNumber
from aiocoap.optiontypes import OpaqueOption
from coap_requests import FakePipe, request

from mitigation import exceptions
from mitigation.protocol.conflicts import ConflictCause, ConflictInformation
from mitigation.protocol.constants import CONTENT_FORMAT
from mitigation.protocol.filters import AclControl, ActivationType
from mitigation.signal_channel import errors
from mitigation.signal_channel.book import Identity
from mitigation.signal_channel.dispatcher import Dispatcher
from mitigation.signal_channel.resources.heartbeat import Heartbeat

SOMEBODY = Identity(1, 1, 1, "alice", "a.example", datetime.now(UTC), datetime.now(UTC) + timedelta(days=1))


class Raises:
    """A resource that ends in a given way."""

    methods = (GET, PUT)
    needs_identity = True

    def __init__(self, error: BaseException | None = None) -> None:
        self._error = error

    async def render(self, request: Message, identity: Identity | None, pipe: Any) -> Message:
        if self._error is not None:
            raise self._error
        return Message(code=Code.CONTENT)


async def ask(message: Message, *, resource: Any = None, identity: Identity | None = SOMEBODY) -> Message:
    pipe = FakePipe(message)
    resources = {"mitigate": resource or Raises(), "hb": Heartbeat()}
    await Dispatcher(resources, lambda _: identity).render_to_pipe(pipe)  # type: ignore[arg-type]
    assert [last for _, last in pipe.sent] == [True]
    return pipe.answer


def is_silent(message: Message) -> bool:
    return message.opt.no_response == 26


REFUSALS: list[tuple[exceptions.DotsError, Code]] = [
    (exceptions.MalformedRequest("m"), Code.BAD_REQUEST),
    (exceptions.Unauthorized("m"), Code.UNAUTHORIZED),
    (exceptions.BadOption("m"), Code.BAD_OPTION),
    (exceptions.NotFound("m"), Code.NOT_FOUND),
    (exceptions.MethodNotAllowed("m"), Code.METHOD_NOT_ALLOWED),
    (exceptions.NotAcceptable("m"), Code.NOT_ACCEPTABLE),
    (exceptions.PreconditionFailed("m"), Code.PRECONDITION_FAILED),
    (exceptions.IncompleteBody("m"), Code.REQUEST_ENTITY_INCOMPLETE),
    (exceptions.TooLarge("m"), Code.REQUEST_ENTITY_TOO_LARGE),
    (exceptions.UnsupportedContentFormat("m"), Code.UNSUPPORTED_CONTENT_FORMAT),
    (exceptions.Unavailable("m", retry_after=7), Code.SERVICE_UNAVAILABLE),
    (exceptions.ProxyingNotSupported("m"), Code.PROXYING_NOT_SUPPORTED),
]


@pytest.mark.rows("SIG-COA-019", "SIG-ERR-010", "SIG-ERR-026", "SIG-PUT-013", "SIG-AUT-013")
@pytest.mark.parametrize(("refusal", "code"), REFUSALS, ids=lambda value: type(value).__name__)
async def test_every_refusal_has_a_code_and_a_sentence(refusal: exceptions.DotsError, code: Code) -> None:
    answer = await ask(request(GET, "mitigate", confirmable=True), resource=Raises(refusal))

    assert (answer.code, answer.payload, answer.opt.content_format) == (code, b"m", None)
    assert answer.opt.max_age == (7 if code is Code.SERVICE_UNAVAILABLE else None)


def test_every_refusal_is_in_the_table() -> None:
    def leaves(kind: type) -> set[type]:
        return {leaf for sub in kind.__subclasses__() for leaf in leaves(sub)} or {kind}

    own = {kind for kind in leaves(exceptions.DotsError) if kind.__module__ == exceptions.__name__}
    not_for_peers = {
        exceptions.IllegalTransition,
        exceptions.DriverError,
        exceptions.GaveWay,
        exceptions.Ignored,
        exceptions.NotByThisPerson,
        exceptions.StorageRefused,
        exceptions.UnfitPolicy,
    }
    assert own - not_for_peers == set(errors.CODES)


@pytest.mark.rows("SIG-FLT-010")
async def test_filters_that_cannot_be_switched_are_in_the_body() -> None:
    acls = (AclControl("an-accept-list", ActivationType.DEACTIVATE),)

    answer = await ask(request(PUT, "mitigate"), resource=Raises(exceptions.FilterNotApplied("m", mid=123, acls=acls)))

    assert (answer.code, answer.opt.content_format) == (Code.SERVICE_UNAVAILABLE, CONTENT_FORMAT)
    assert cbor2.loads(answer.payload) == {1: {2: [{5: 123, 53: [{23: "an-accept-list", 52: 3}]}]}}
    assert answer.opt.max_age == 60


@pytest.mark.rows("SIG-ERR-015", "SIG-CUI-006", "SIG-CUI-007", "SIG-COA-017")
async def test_a_conflict_has_a_dots_body() -> None:
    conflict = exceptions.ScopeConflict("m", ConflictInformation(cause=ConflictCause.CUID_COLLISION))

    answer = await ask(request(PUT, "mitigate"), resource=Raises(conflict))

    assert (answer.code, answer.opt.content_format) == (Code.CONFLICT, CONTENT_FORMAT)
    assert answer.payload.hex() == "a101a10281a111a11303"


@pytest.mark.rows("SIG-ERR-020", "SIG-SEC-007")
async def test_a_defect_is_500_and_tells_nothing_of_the_inside(caplog: pytest.LogCaptureFixture) -> None:
    answer = await ask(request(GET, "mitigate"), resource=Raises(RuntimeError("secret path /etc/x")))

    assert answer.code is Code.INTERNAL_SERVER_ERROR
    assert b"secret" not in answer.payload
    assert "secret path" in caplog.text


@pytest.mark.rows("SIG-EFF-006")
async def test_silence_sends_nothing_and_lets_go_of_the_request() -> None:
    assert is_silent(await ask(request(PUT, "mitigate"), resource=Raises(exceptions.Ignored("m"))))


def with_option(message: Message, number: int, value: bytes = b"x") -> Message:
    message.opt.add_option(OpaqueOption(OptionNumber(number), value))
    return message


@pytest.mark.rows("SIG-COA-022", "SIG-ERR-009")
@pytest.mark.parametrize("number", [9, 21, 31, 65001])
async def test_an_unknown_critical_option_is_402_or_nothing(number: int) -> None:
    confirmed = await ask(with_option(request(GET, "mitigate", confirmable=True), number))
    assert confirmed.code is Code.BAD_OPTION
    assert str(number).encode() in confirmed.payload
    assert is_silent(await ask(with_option(request(GET, "mitigate"), number)))


@pytest.mark.rows("SIG-COA-022")
async def test_the_first_message_of_go_dots_is_answered_at_once() -> None:
    message = with_option(request(GET, confirmable=True), 31)
    message.opt.uri_path = ()

    assert (await ask(message)).code is Code.BAD_OPTION


@pytest.mark.rows("SIG-COA-023")
async def test_an_unknown_elective_option_is_ignored() -> None:
    assert (await ask(with_option(request(GET, "mitigate"), 65000))).code is Code.CONTENT


@pytest.mark.rows("SIG-ERR-024")
async def test_we_are_no_proxy() -> None:
    assert (await ask(request(GET, "mitigate", proxy_uri="coaps://x/"))).code is Code.PROXYING_NOT_SUPPORTED


@pytest.mark.rows("SIG-ERR-027", "SIG-URI-008", "SIG-AUT-005")
async def test_faults_are_reported_in_a_fixed_order() -> None:
    nowhere = with_option(request(GET, "nosuch", confirmable=True), 9)
    assert (await ask(nowhere, identity=None)).code is Code.BAD_OPTION
    assert (await ask(request(GET, "nosuch"), identity=None)).code is Code.NOT_FOUND
    assert (await ask(request(GET, "mitigate"), identity=None)).code is Code.UNAUTHORIZED


@pytest.mark.rows("SIG-HB-001", "SIG-URI-004", "SIG-URI-007", "SIG-URI-015", "SIG-HB-004", "SIG-ERR-004", "SIG-COA-018")
async def test_heartbeats_are_answered_empty_and_take_put_only() -> None:
    body = bytes.fromhex("a11831a11833f5")

    answer = await ask(request(PUT, "hb", payload=body, content_format=271), identity=None)

    assert (answer.code, answer.payload, answer.opt.content_format) == (Code.CHANGED, b"", None)
    assert (await ask(request(GET, "hb"))).code is Code.METHOD_NOT_ALLOWED
    assert (await ask(request(POST, "hb", payload=body))).code is Code.METHOD_NOT_ALLOWED
    assert (await ask(request(PUT, "hb", "cuid=c", payload=body))).code is Code.BAD_REQUEST
    assert (await ask(request(PUT, "hb", payload=b"\xa1\x18\x31\xa0"))).code is Code.BAD_REQUEST
    assert (await ask(request(PUT, "hb", payload=body, content_format=60))).code is Code.UNSUPPORTED_CONTENT_FORMAT
