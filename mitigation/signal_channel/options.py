"""What a request's CoAP options must be before anything else is looked at (RFC 7252, section 5.4)."""

from __future__ import annotations

from collections.abc import Sequence

from aiocoap import Code, Message
from aiocoap.numbers.optionnumbers import OptionNumber

from mitigation.exceptions import (
    BadOption,
    MalformedRequest,
    MethodNotAllowed,
    NotAcceptable,
    ProxyingNotSupported,
    UnsupportedContentFormat,
)
from mitigation.protocol.constants import CONTENT_FORMAT

# Critical options (odd numbers) that we understand; aiocoap takes unknown ones silently.
_KNOWN_CRITICAL = frozenset(
    {
        OptionNumber.IF_MATCH,
        OptionNumber.URI_HOST,
        OptionNumber.IF_NONE_MATCH,
        OptionNumber.URI_PORT,
        OptionNumber.URI_PATH,
        OptionNumber.URI_QUERY,
        OptionNumber.ACCEPT,
        OptionNumber.BLOCK2,
        OptionNumber.BLOCK1,
    }
)
_PROXY = frozenset({OptionNumber.PROXY_URI, OptionNumber.PROXY_SCHEME})
_ONCE = frozenset(
    {OptionNumber.URI_HOST, OptionNumber.URI_PORT, OptionNumber.ACCEPT, OptionNumber.BLOCK2, OptionNumber.BLOCK1}
)

# Seven exponents of block size are defined; the eighth is reserved over UDP (RFC 7959, section 2.2), and over TCP
# stands for several blocks of 1024 in one message, which our CSM announces (BERT; RFC 8323, section 6).
LARGEST_BLOCK_EXPONENT = 6


def check(request: Message) -> None:
    """Raises ProxyingNotSupported, BadOption or MalformedRequest."""
    seen: set[int] = set()
    for option in request.opt.option_list():
        number = option.number
        if number in _PROXY:
            raise ProxyingNotSupported("this server is no proxy")
        if number % 2 and number not in _KNOWN_CRITICAL:
            raise BadOption(f"option {int(number)} is critical and not known here")
        if number in _ONCE and number in seen:
            raise BadOption(f"option {int(number)} is given twice")
        seen.add(number)
    for name, block in (("Block2", request.opt.block2), ("Block1", request.opt.block1)):
        if block is not None and block.size_exponent > LARGEST_BLOCK_EXPONENT and request.remote.transport == "udp":
            raise MalformedRequest(f"{name} has the reserved size exponent 7")


def check_method(request: Message, resource: str, methods: Sequence[Code]) -> None:
    """Raises MethodNotAllowed with those that the resource takes."""
    if request.code not in methods:
        raise MethodNotAllowed(f"{resource} takes {', '.join(method.name for method in methods)} only")


def check_content_format(request: Message, wanted: int = CONTENT_FORMAT) -> None:
    """A body without Content-Format is DOTS by context. Raises UnsupportedContentFormat for any other."""
    declared = request.opt.content_format
    if declared is not None and int(declared) != wanted:
        raise UnsupportedContentFormat(f"content format {int(declared)} is not read here, only {wanted}")


def check_accept(request: Message, given: int = CONTENT_FORMAT) -> None:
    """Raises NotAcceptable where the peer wants anything but what is given, application/dots+cbor."""
    accept = request.opt.accept
    if accept is not None and int(accept) != given:
        raise NotAcceptable(f"content format {int(accept)} cannot be given, only {given}")
