"""application/yang-data+json (RFC 8040, section 11.3.2)."""

from rest_framework.renderers import JSONRenderer

MEDIA_TYPE = "application/yang-data+json"


class YangJSONRenderer(JSONRenderer):
    media_type = MEDIA_TYPE
    format = "yang"
    charset = None
    ensure_ascii = False
