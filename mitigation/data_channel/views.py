"""The RESTCONF API resource (RFC 8040, section 3.3). Data resources of RFC 8783 hang below it."""

from __future__ import annotations

from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from mitigation.data_channel.renderers import YangJSONParser, YangJSONRenderer

YANG_LIBRARY_VERSION = "2016-06-21"  # of ietf-yang-library (RFC 7895)


class RestconfView(APIView):
    """What every resource of the data channel has in common."""

    renderer_classes = [YangJSONRenderer]
    parser_classes = [YangJSONParser]


class Root(RestconfView):
    """GET /restconf."""

    def get(self, request: Request) -> Response:
        return Response(
            {
                "ietf-restconf:restconf": {
                    "data": {},
                    "operations": {},
                    "yang-library-version": YANG_LIBRARY_VERSION,
                }
            }
        )
