"""Refusals to RESTCONF error bodies (RFC 8040, section 7): the one place where a status is chosen for an exception."""

from __future__ import annotations

import logging
from typing import Any

from django.core.exceptions import RequestDataTooBig
from django.db import DatabaseError
from django.http import Http404
from rest_framework import exceptions as drf
from rest_framework.response import Response

from mitigation.data_channel.queries import BadQuery
from mitigation.data_channel.renderers import MEDIA_TYPE
from mitigation.exceptions import DotsError, Unavailable
from mitigation.protocol.edits import NoSuchNode, Taken
from mitigation.protocol.trees import MODULE, Path, TreeFault
from mitigation.services.datastore import Unregistered
from mitigation.services.filter_checks import Contradiction
from mitigation.services.tree_writing import OverQuota, ReadOnly

log = logging.getLogger(__name__)

TOP = f"/{MODULE}:dots-data"
RETRY_AFTER = 5  # seconds, while the database takes nothing


class AccessDenied(DotsError):
    """The client is known and may not do this (403)."""


class NotAllowed(DotsError):
    """The resource does not take this method (405); `allow` are those it takes."""

    def __init__(self, allow: str) -> None:
        super().__init__("this resource is read only, or does not take this method")
        self.allow = allow


class PreconditionFailed(DotsError):
    """If-Match and its like (412)."""


class TooBig(DotsError):
    """An answer that is larger than is sent (400, too-big)."""


class BadMessage(DotsError):
    """A body that is no JSON, or not sent as it must be; `http_status` 400 or 415, with its tag."""

    def __init__(self, sentence: str, *, tag: str = "malformed-message", http_status: int = 400) -> None:
        super().__init__(sentence)
        self.tag = tag
        self.http_status = http_status


def body(tag: str, sentence: str, *, path: str = "", app_tag: str = "", kind: str = "application") -> dict[str, Any]:
    """`kind`: transport, rpc, protocol or application."""
    error = {"error-type": kind, "error-tag": tag}
    if app_tag:
        error["error-app-tag"] = app_tag
    if path:
        error["error-path"] = path
    return {"ietf-restconf:errors": {"error": [{**error, "error-message": sentence}]}}


def answer(error: Exception) -> Response | None:
    """None for what is no refusal but a defect."""
    match error:
        case BadQuery():
            return _response(400, body(error.tag, str(error), kind="protocol"))
        case TreeFault():
            return _response(400, body(error.tag, str(error), path=_path(error.path), app_tag=error.app_tag))
        case NoSuchNode():
            return _response(404, body("invalid-value", str(error), path=_path(error.path)))
        case Contradiction():
            found = body("resource-denied", str(error), path=_path(error.path), app_tag="dots-filter-conflict")
            return _response(409, found)
        case Taken() | OverQuota():
            return _response(409, body("resource-denied", str(error), path=_path(error.path)))
        case Unregistered() | AccessDenied() | ReadOnly():
            return _response(403, body("access-denied", str(error)))
        case NotAllowed():
            found = body("operation-not-supported", str(error), kind="protocol")
            return _response(405, found, Allow=error.allow)
        case PreconditionFailed():
            return _response(412, body("operation-failed", str(error), kind="protocol"))
        case BadMessage():
            return _response(error.http_status, body(error.tag, str(error), kind="protocol"))
        case RequestDataTooBig():
            return _response(413, body("too-big", "the body is larger than is taken", kind="transport"))
        case TooBig():
            return _response(400, body("too-big", str(error)))
        case Http404():
            return _response(404, body("invalid-value", str(error)))
        case Unavailable():
            return _retry(body("operation-failed", str(error)), error.retry_after)
        case DatabaseError():
            log.error("the database cannot be used: %s", error)
            return _retry(body("operation-failed", "nothing can be stored now; nothing was changed"), RETRY_AFTER)
        case drf.APIException():
            return _of_framework(error)
    return None


def _of_framework(error: drf.APIException) -> Response | None:
    match error:
        case drf.NotAuthenticated():
            found = body("access-denied", "a client certificate is required", kind="protocol")
            return _response(401, found, **{"WWW-Authenticate": error.auth_header})
        case drf.AuthenticationFailed():
            # A certificate that names nobody ends the session (RFC 7589, section 7 (d)); the client is told why first.
            found = body("access-denied", str(error.detail), kind="protocol")
            return _response(401, found, **{"WWW-Authenticate": error.auth_header, "Connection": "close"})
        case drf.Throttled():
            return _retry(body("resource-denied", "too many requests; slow down"), max(1, round(error.wait or 1)))
        case drf.MethodNotAllowed():
            return _response(405, body("operation-not-supported", str(error.detail), kind="protocol"))
        case drf.NotAcceptable():
            sentence = f"answers are {MEDIA_TYPE} and nothing else"
            return _response(406, body("invalid-value", sentence, kind="protocol"))
    return None


def _response(status: int, found: dict[str, Any], **headers: str) -> Response:
    return Response(found, status=status, headers=headers)


def _retry(found: dict[str, Any], seconds: int) -> Response:
    return _response(503, found, **{"Retry-After": str(seconds)})


def _path(path: Path) -> str:
    return "/".join((TOP, *path))
