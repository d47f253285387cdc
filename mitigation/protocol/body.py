"""application/dots+cbor to plain values under RFC names, and back (RFC 9132, section 6).

Decoding is strict and bounded: a body is read once, is a few levels deep, repeats no key and ends where it says.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import cbor2

from mitigation.exceptions import MalformedRequest
from mitigation.protocol import keys
from mitigation.protocol.constants import CBOR_TAG
from mitigation.protocol.keys import Comprehension, Key, Type

MAXIMUM_OCTETS = 16_384  # a request that needs more is split into several (RFC 9132, section 7.3)
_DEEPEST = 8  # the deepest body of Table 5 has six levels


class _Tagged:
    """Stands for a value with a tag that no key of ours has: of no type we know, and ignored below an unknown key."""


def _leave_alone(*_: object) -> Any:
    return _Tagged()


# Tags that cbor2 would turn into dates, big integers, patterns and more.
_FOREIGN_TAGS = dict.fromkeys(
    (0, 1, 2, 3, 5, 25, 28, 29, 30, 35, 36, 37, 100, 256, 258, 260, 261, 1004, 43000), _leave_alone
)
_HUNDREDTH = Decimal("0.01")
_LARGEST_DECIMAL = Decimal(2**63 - 1).scaleb(-2)  # decimal64 with two fraction digits (RFC 7950, section 9.3)


def decode(payload: bytes) -> dict[str, Any]:
    """The body under RFC names, unknown comprehension-optional keys left out. Raises MalformedRequest.

    All unknown comprehension-required keys are named in the refusal, so that a client's author sees them at once
    (section 10.6.1.1). Enumerations stay numbers.
    """
    top = _well_formed(payload)
    unknown: list[int] = []
    body = _named(top, unknown, "the body")
    if unknown:
        shown = ", ".join(map(str, sorted(set(unknown))[:10]))
        raise MalformedRequest(f"unknown comprehension-required CBOR key: {shown}")
    return body


def decode_request(payload: bytes, *, message_type: str) -> Any:
    """The one message of `message_type` in a client's request. Raises MalformedRequest."""
    body = decode(payload)
    present = [name for name in body if name in keys.MESSAGE_TYPES]
    if len(present) > 1:
        raise MalformedRequest(f"the body has several message types: {', '.join(present)}")
    if present != [message_type] or len(body) != 1:
        shown = ", ".join(body) or "nothing"
        raise MalformedRequest(f"the body has {shown} where {message_type} is expected")
    _refuse_server_only(body)
    return body[message_type]


def encode(body: Mapping[str, Any]) -> bytes:
    """Shortest definite form, keys in the order given. Raises KeyError for a name outside the table."""
    return cbor2.dumps(_numbered(body))


def _well_formed(payload: bytes) -> dict[Any, Any]:
    if not payload:
        raise MalformedRequest("the body is empty")
    if len(payload) > MAXIMUM_OCTETS:
        raise MalformedRequest(f"the body has {len(payload)} octets, at most {MAXIMUM_OCTETS} are read")
    stream = io.BytesIO(payload)
    decoder = cbor2.CBORDecoder(stream, max_depth=_DEEPEST, allow_duplicate_keys=False, semantic_decoders=_FOREIGN_TAGS)
    try:
        top = decoder.decode()
    except (cbor2.CBORError, ValueError, TypeError, OverflowError, MemoryError, ArithmeticError):
        raise MalformedRequest("the body is not well-formed CBOR") from None
    if stream.tell() != len(payload):
        raise MalformedRequest(f"the body has {len(payload) - stream.tell()} octets after its end")
    if isinstance(top, cbor2.CBORTag):
        if top.tag != CBOR_TAG:
            raise MalformedRequest(f"the body has CBOR tag {top.tag}, only {CBOR_TAG} is known")
        top = top.value
    if not isinstance(top, Mapping):
        raise MalformedRequest("the body is not a CBOR map")
    return dict(top)


def _named(values: Mapping[Any, Any], unknown: list[int], where: str) -> dict[str, Any]:
    named: dict[str, Any] = {}
    for number, value in values.items():
        if type(number) is not int:
            raise MalformedRequest(f"{where} has a key that is not an integer")
        key = keys.BY_NUMBER.get(number)
        if key is None:
            kind = keys.comprehension(number)
            if kind is Comprehension.INVALID:
                raise MalformedRequest(f"{where} has the key {_short(number)}, outside 1 to 65535")
            if kind is Comprehension.REQUIRED:
                unknown.append(number)
            continue
        named[key.name] = _typed(key, value, unknown)
    return named


def _typed(key: Key, value: Any, unknown: list[int]) -> Any:
    match key.type:
        case Type.MAP if isinstance(value, Mapping):
            return _named(value, unknown, key.name)
        case Type.MAPS if _is_array(value) and all(isinstance(item, Mapping) for item in value):
            return [_named(item, unknown, key.name) for item in value]
        case Type.TEXTS if _is_array(value) and all(_is_text(item) for item in value):
            return list(value)
        case Type.UNSIGNEDS if _is_array(value) and all(_is_unsigned(item) for item in value):
            return list(value)
        case Type.TEXT if _is_text(value):
            return value
        case Type.UNSIGNED if _is_unsigned(value):
            return value
        case Type.INTEGER if type(value) is int:
            return value
        case Type.BOOLEAN if type(value) is bool:
            return value
        case Type.DECIMAL if isinstance(value, Decimal) and (exact := _two_digits(value)) is not None:
            return exact
    raise MalformedRequest(f"{key.name} ({key.number}) is not {key.type.value}")


def _is_array(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _is_text(value: Any) -> bool:
    return type(value) is str and "\x00" not in value  # no name has a NUL in it, and not every database can store one


def _is_unsigned(value: Any) -> bool:
    return type(value) is int and value >= 0


def _two_digits(value: Decimal) -> Decimal | None:
    """The same number with two fraction digits, whatever its exponent was; None where it needs more or is too large."""
    if not value.is_finite() or abs(value.adjusted()) > 20 or abs(value) > _LARGEST_DECIMAL:
        return None
    exact = value.quantize(_HUNDREDTH)
    return exact if exact == value else None


def _refuse_server_only(body: Any) -> None:
    for name, value in body.items():
        if keys.BY_NAME[name].from_server_only:
            raise MalformedRequest(f"{name} is sent by servers only")
        if isinstance(value, dict):
            _refuse_server_only(value)
        elif isinstance(value, list):
            for item in value:
                if isinstance(item, dict):
                    _refuse_server_only(item)


def _numbered(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {keys.BY_NAME[name].number: _numbered(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_numbered(item) for item in value]
    if isinstance(value, Decimal):
        return value.quantize(_HUNDREDTH)  # C4 82 21 ..: the exponent is -2, also for a whole number (section 6)
    return value


def _short(number: int) -> str:
    return str(number) if number.bit_length() < 128 else "(a huge number)"
