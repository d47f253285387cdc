"""If-Match and its like (RFC 8040, section 3.4.1; RFC 9110, section 13)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime

from django.utils.http import http_date, parse_http_date_safe

from mitigation.data_channel.errors import PreconditionFailed

_TAG = re.compile(r'(?:W/)?"([^"]*)"')


def check_write(headers: Mapping[str, str], etag: str | None, changed_at: datetime | None) -> None:
    """Before a change; `etag` is None where there is nothing yet. Raises PreconditionFailed."""
    if "If-Match" in headers:
        if not _names(headers["If-Match"], etag):
            raise PreconditionFailed("the resource has changed, or is not there: If-Match names another state")
    elif "If-Unmodified-Since" in headers and changed_at is not None:
        limit = parse_http_date_safe(headers["If-Unmodified-Since"])
        if limit is not None and int(changed_at.timestamp()) > limit:
            raise PreconditionFailed("the resource has changed since the time of If-Unmodified-Since")
    if "If-None-Match" in headers and _names(headers["If-None-Match"], etag):
        raise PreconditionFailed("the resource is there already: If-None-Match names its state")


def is_known(headers: Mapping[str, str], etag: str, changed_at: datetime) -> bool:
    """Whether a GET may be answered with 304."""
    if "If-None-Match" in headers:
        return _names(headers["If-None-Match"], etag)
    since = parse_http_date_safe(headers.get("If-Modified-Since", ""))
    return since is not None and int(changed_at.timestamp()) <= since


def of(etag: str, changed_at: datetime) -> dict[str, str]:
    """The headers of an answer."""
    return {"ETag": f'"{etag}"', "Last-Modified": http_date(changed_at.timestamp())}


def _names(header: str, etag: str | None) -> bool:
    if etag is None:
        return False
    return header.strip() == "*" or etag in _TAG.findall(header)
