"""Refusals to CoAP answers (RFC 9132, section 9): the one place where a code is chosen for an exception."""

from __future__ import annotations

from aiocoap import Code, Message

from mitigation import exceptions
from mitigation.protocol import messages
from mitigation.protocol.body import MAXIMUM_OCTETS
from mitigation.protocol.constants import CONTENT_FORMAT

CODES: dict[type[exceptions.DotsError], Code] = {
    exceptions.MalformedRequest: Code.BAD_REQUEST,
    exceptions.OutsidePolicy: Code.BAD_REQUEST,
    exceptions.Unauthorized: Code.UNAUTHORIZED,
    exceptions.BadOption: Code.BAD_OPTION,
    exceptions.InvalidParameter: Code.BAD_OPTION,
    exceptions.NotFound: Code.NOT_FOUND,
    exceptions.MethodNotAllowed: Code.METHOD_NOT_ALLOWED,
    exceptions.NotAcceptable: Code.NOT_ACCEPTABLE,
    exceptions.ScopeConflict: Code.CONFLICT,
    exceptions.PreconditionFailed: Code.PRECONDITION_FAILED,
    exceptions.IncompleteBody: Code.REQUEST_ENTITY_INCOMPLETE,
    exceptions.TooLarge: Code.REQUEST_ENTITY_TOO_LARGE,
    exceptions.UnsupportedContentFormat: Code.UNSUPPORTED_CONTENT_FORMAT,
    exceptions.Unavailable: Code.SERVICE_UNAVAILABLE,
    exceptions.FilterNotApplied: Code.SERVICE_UNAVAILABLE,
    exceptions.Redirected: Code.SERVICE_UNAVAILABLE,
    exceptions.ProxyingNotSupported: Code.PROXYING_NOT_SUPPORTED,
}


def answer(refusal: exceptions.DotsError) -> Message:
    """The code with its sentence as diagnostic payload; 4.09, refused filters and redirections have a DOTS body."""
    if isinstance(refusal, exceptions.ScopeConflict):
        return Message(
            code=Code.CONFLICT, payload=messages.encode_conflict(refusal.conflict), content_format=CONTENT_FORMAT
        )
    if isinstance(refusal, exceptions.FilterNotApplied):
        payload = messages.encode_failed_acls(refusal.mid, refusal.acls)
        return Message(
            code=CODES[type(refusal)], payload=payload, content_format=CONTENT_FORMAT, max_age=refusal.retry_after
        )
    if isinstance(refusal, exceptions.Redirected):
        payload = messages.encode_redirection(refusal.alt_server, refusal.addresses)
        return Message(code=CODES[type(refusal)], payload=payload, content_format=CONTENT_FORMAT, max_age=refusal.ttl)
    message = Message(code=CODES[type(refusal)], payload=str(refusal).encode())
    if isinstance(refusal, exceptions.TooLarge):
        message.opt.size1 = MAXIMUM_OCTETS
    if isinstance(refusal, exceptions.Unavailable):
        message.opt.max_age = refusal.retry_after
    return message


def internal_error() -> Message:
    """5.00 without anything of the inside."""
    return Message(code=Code.INTERNAL_SERVER_ERROR, payload=b"the server failed; its operators see why in the log")
