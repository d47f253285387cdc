"""application/yang-data+json (RFC 8040, section 11.3.2)."""

from rest_framework.parsers import JSONParser
from rest_framework.renderers import JSONRenderer


class YangJSONRenderer(JSONRenderer):
    media_type = "application/yang-data+json"
    format = "yang"
    charset = None


class YangJSONParser(JSONParser):
    media_type = "application/yang-data+json"
