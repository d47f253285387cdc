"""application/yang-data+json (RFC 8040, section 11.3.2), and YANG modules themselves (RFC 6020, section 14)."""

from collections.abc import Mapping
from typing import Any

from rest_framework.renderers import BaseRenderer, JSONRenderer

MEDIA_TYPE = "application/yang-data+json"
# What is configured changes at any time, and is nobody else's business (RFC 8040, section 5.5).
NOT_STORED = "no-store"


class YangJSONRenderer(JSONRenderer):
    media_type = MEDIA_TYPE
    format = "yang"
    charset = None
    ensure_ascii = False


class YangRenderer(BaseRenderer):
    """The text of a module as it is."""

    media_type = "application/yang"
    format = "module"

    def render(
        self, data: str, accepted_media_type: str | None = None, renderer_context: Mapping[str, Any] | None = None
    ) -> bytes:
        return data.encode()
