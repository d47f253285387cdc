"""RESTCONF resources (RFC 8040, section 3): the API resource, host-meta, and all data below /restconf/data."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse
from django.utils import timezone
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from mitigation.data_channel import bodies, changes, errors, library, openapi, paths, preconditions, queries, retrieval
from mitigation.data_channel.errors import AccessDenied, NotAllowed
from mitigation.data_channel.library import ROOT, YANG_LIBRARY_VERSION
from mitigation.data_channel.queries import Content, Query
from mitigation.data_channel.renderers import MEDIA_TYPE, NOT_STORED, YangJSONRenderer, YangRenderer
from mitigation.data_channel.throttling import PerClient
from mitigation.models import Client
from mitigation.protocol.edits import NoSuchNode, Place, exists, find, is_set, path_of
from mitigation.protocol.nodes import CAPABILITIES, DOTS_CLIENT, DOTS_DATA, Node, Shape, container, inherits, leaf
from mitigation.services import datastore, filter_checks, filter_enforcement
from mitigation.services.client_trees import Store
from mitigation.services.datastore import Unregistered

_LINKS = {"links": [{"rel": "restconf", "href": paths.ROOT}]}
_XRD = (
    '<?xml version="1.0" encoding="UTF-8"?>\n<XRD xmlns="http://docs.oasis-open.org/ns/xri/xrd-1.0">'
    f'<Link rel="restconf" href="{paths.ROOT}"/></XRD>\n'
)
_API = inherits(
    container("restconf", container("data"), container("operations"), leaf("yang-library-version")), "ietf-restconf"
)
READ = "OPTIONS, HEAD, GET"


def host_meta(request: HttpRequest, *, as_json: bool = False) -> HttpResponse:
    """Where the API is (RFC 6415); open to all, since it is asked for before anything else."""
    if request.method not in ("GET", "HEAD"):
        return HttpResponse(status=405, headers={"Allow": "GET, HEAD", "Cache-Control": NOT_STORED})
    accepted = [one.partition(";")[0].strip() for one in request.headers.get("Accept", "*/*").split(",")]
    wants_json = "application/json" in accepted and "application/xrd+xml" not in accepted
    if as_json or wants_json:
        text, media_type = json.dumps(_LINKS), "application/json"
    else:
        text, media_type = _XRD, "application/xrd+xml"
    return HttpResponse(text, content_type=media_type, headers={"Cache-Control": NOT_STORED, "Vary": "Accept"})


def openapi_description(request: HttpRequest) -> HttpResponse:
    """For tools; open to all like host-meta, since it says nothing of anybody."""
    if request.method not in ("GET", "HEAD"):
        return HttpResponse(status=405, headers={"Allow": "GET, HEAD", "Cache-Control": NOT_STORED})
    text = json.dumps(openapi.description())
    return HttpResponse(text, content_type="application/json", headers={"Cache-Control": NOT_STORED})


def not_found(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    """For whatever is no resource of the data channel."""
    return _plain(404, errors.body("invalid-value", "there is nothing here; the API begins at /restconf"))


def server_error(request: HttpRequest) -> HttpResponse:
    return _plain(500, errors.body("operation-failed", "the server failed; its operators see why in the log"))


def _plain(status: int, found: Mapping[str, Any]) -> HttpResponse:
    headers = {"Cache-Control": NOT_STORED}
    return HttpResponse(json.dumps(found), status=status, content_type=MEDIA_TYPE, headers=headers)


class RestconfView(APIView):
    """What every resource has in common: who asks, how often, in which media type, and how refusals look."""

    renderer_classes = [YangJSONRenderer]
    permission_classes = [IsAuthenticated]
    throttle_classes = [PerClient]

    @property
    def default_response_headers(self) -> dict[str, str]:
        return {"Cache-Control": NOT_STORED}

    def handle_exception(self, exc: Exception) -> Response:
        if getattr(exc, "status_code", None) == 401:
            # As the framework's own handler does: no class of its exceptions declares it.
            exc.auth_header = self.get_authenticate_header(self.request)  # type: ignore[attr-defined]
        found = errors.answer(exc)
        if found is None:
            raise exc
        found.exception = True
        self.request.accepted_renderer = YangJSONRenderer()
        self.request.accepted_media_type = MEDIA_TYPE
        return found

    def finalize_response(self, request: Request, response: Response, *args: Any, **kwargs: Any) -> Response:
        made = super().finalize_response(request, response, *args, **kwargs)
        if len(made.render().content) <= settings.DOTS_DATA_LARGEST_ANSWER:
            return made
        sentence = f"the answer has more than {settings.DOTS_DATA_LARGEST_ANSWER:,} octets; ask for less of it"
        refusal = self.handle_exception(errors.TooBig(f"{sentence}: one entry, or with depth or fields"))
        return super().finalize_response(request, refusal, *args, **kwargs)

    def _query(self, request: Request) -> Query:
        return queries.parse(request.META.get("QUERY_STRING", ""), request.method or "")

    def options(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        return Response(headers={"Allow": READ})


class Api(RestconfView):
    """GET /restconf (RFC 8040, section 3.3)."""

    def get(self, request: Request) -> Response:
        values = {"data": {}, "operations": {}, "yang-library-version": YANG_LIBRARY_VERSION}
        return Response(bodies.named(_API, retrieval.shown(_API, values, self._query(request))))


class Operations(RestconfView):
    """The DOTS modules define none."""

    def get(self, request: Request) -> Response:
        self._query(request)
        return Response({"ietf-restconf:operations": {}})


class LibraryVersion(RestconfView):
    def get(self, request: Request) -> Response:
        self._query(request)
        return Response({"ietf-restconf:yang-library-version": YANG_LIBRARY_VERSION})


class Schema(RestconfView):
    """GET of a module's text, where the YANG library says that it is (RFC 8040, section 3.7)."""

    renderer_classes = [YangRenderer]

    def get(self, request: Request, name: str) -> Response:
        self._query(request)
        text = library.schema(name)
        if text is None:
            raise Http404("there is no such module")
        return Response(text)


class Data(RestconfView):
    """Everything below /restconf/data. A client meets its own entries; those of others are not there for it."""

    def get(self, request: Request) -> Response:
        place, query = self._place(request), self._query(request)
        store = self._store(request, place)
        tree = _everything(store, self._schemas_at(request))
        try:
            value = find(tree, place)
        except NoSuchNode as error:
            raise self._missing(request, error) from None
        node = place[-1].node if place else ROOT
        headers = self._tags(store, place)
        if headers is not None and preconditions.is_known(request.headers, headers[0], headers[1]):
            return Response(status=304, headers=preconditions.of(*headers))
        if place and place[-1].key is not None:
            value = [value]
        of_one_kind = node.shape in (Shape.LEAF, Shape.LEAF_LIST) and query.content is not Content.ALL
        if of_one_kind and (query.content is Content.CONFIG) != node.config:
            raise NoSuchNode(path_of(place[1:]), f"{node.name} is no {query.content} data")
        shown = retrieval.shown(node, value, query)
        return Response(bodies.named(node, shown), headers=preconditions.of(*headers) if headers else None)

    def options(self, request: Request) -> Response:
        place = self._place(request)
        find(_everything(self._store(request, place), self._schemas_at(request)), place)
        allowed = _allow(place)
        headers = {"Allow": allowed}
        if "PATCH" in allowed:
            headers["Accept-Patch"] = MEDIA_TYPE
        return Response(headers=headers)

    def post(self, request: Request) -> Response:
        place = self._writable(request, "POST")
        edit = changes.post(place, self._body(request), self._query(request))
        store = self._edit(request, edit.change, place)
        headers = {**self._tag_headers(store, edit.place), "Location": self._location(request, edit.place)}
        return Response(status=201, headers=headers)

    def put(self, request: Request) -> Response:
        place = self._writable(request, "PUT")
        edit = changes.put(place, self._body(request), self._query(request))
        was_there: list[bool] = []
        store = self._edit(
            request, edit.change, place, look=lambda before: was_there.append(is_set(before.tree, place[1:]))
        )
        headers = self._tag_headers(store, place)
        if was_there[0]:
            return Response(status=204, headers=headers)
        return Response(status=201, headers={**headers, "Location": self._location(request, place)})

    def patch(self, request: Request) -> Response:
        place = self._writable(request, "PATCH")
        self._query(request)
        edit = changes.patch(place, self._body(request))
        return Response(status=204, headers=self._tag_headers(self._edit(request, edit.change, place), place))

    def delete(self, request: Request) -> Response:
        place = self._writable(request, "DELETE")
        self._query(request)
        self._edit(request, changes.delete(place).change, place)
        return Response(status=204)

    # -- where

    def _place(self, request: Request) -> Place:
        # Django's path is decoded already, and an ASGI request has a scope, which its type does not say.
        raw = request._request.scope["raw_path"].decode("ascii", errors="replace")  # type: ignore[attr-defined]
        text = raw[len(paths.DATA) :] if raw.startswith(paths.DATA) else ""
        return paths.parse(text, ROOT)

    def _writable(self, request: Request, method: str) -> Place:
        place = self._place(request)
        if not place or (len(place) == 1 and place[0].node is DOTS_DATA and method != "POST"):
            raise AccessDenied("a client changes its own entries, not the datastore")
        for step in place:
            if not library.is_writable(step.node):
                raise NotAllowed(READ)
        if method == "POST" and place[-1].node.shape in (Shape.LEAF, Shape.LEAF_LIST):
            raise NotAllowed(_allow(place))
        return place

    def _location(self, request: Request, place: Place) -> str:
        return str(request.build_absolute_uri(paths.to_uri(place)))

    def _schemas_at(self, request: Request) -> str:
        return str(request.build_absolute_uri(f"{paths.SCHEMAS}/"))

    # -- what

    def _client(self, request: Request) -> Client:
        client: Client = request.user.client
        return client

    def _store(self, request: Request, place: Place) -> Store:
        return datastore.load(self._client(request), place[1:], now=timezone.now())

    def _body(self, request: Request) -> Any:
        return bodies.read(request)

    def _edit(
        self,
        request: Request,
        change: changes.Change,
        place: Place,
        *,
        look: Callable[[Store], object] = lambda _: None,
    ) -> Store:
        def check(before: Store) -> None:
            # What is not there for this client is 404, whatever tags it names.
            find(before.tree, place[1:-1] if request.method == "PUT" else place[1:])
            tags = self._tags(before, place) if exists(before.tree, place[1:]) else None
            preconditions.check_write(request.headers, tags and tags[0], tags and tags[1])
            look(before)

        try:
            return datastore.edit(self._client(request).pk, change, check=check, place=place[1:], now=timezone.now())
        except NoSuchNode as error:
            raise self._missing(request, error) from None

    def _missing(self, request: Request, error: NoSuchNode) -> Exception:
        """A gateway is told that it must register anew; for others there is nothing (RFC 8783, section 6.1)."""
        is_client = len(error.path) == 1 and error.path[0].startswith(DOTS_CLIENT.name)
        if is_client and self._client(request).is_gateway:
            return Unregistered("register first: the cdid of this client is not known here")
        return error

    def _tags(self, store: Store, place: Place) -> tuple[str, Any] | None:
        """Entity-tag and time of what is configured there; state has none."""
        if place and (place[0].node is not DOTS_DATA or any(not step.node.config for step in place)):
            return None
        if len(place) > 1 and place[1].node is CAPABILITIES:
            return None
        return store.etag(place[1:]), store.changed_at(place[1:])

    def _tag_headers(self, store: Store, place: Place) -> dict[str, str]:
        tags = self._tags(store, place)
        return preconditions.of(*tags) if tags is not None else {}


def _everything(store: Store, schemas_at: str) -> dict[str, Any]:
    """The datastore as this client sees it."""
    state = store.with_state(filter_enforcement.statistics(store.acl_ids()))
    dots_data = {**state, "capabilities": filter_checks.capabilities()}
    return {"dots-data": dots_data, **library.state(schemas_at)}


def _allow(place: Place) -> str:
    if not place or not all(library.is_writable(step.node) for step in place):
        return READ
    step: Any = place[-1]
    node: Node = step.node
    if node is DOTS_DATA:
        return f"{READ}, POST"
    if node.shape is Shape.LIST and step.key is None:
        return READ
    if node.shape in (Shape.LEAF, Shape.LEAF_LIST):
        return f"{READ}, PUT, PATCH, DELETE"
    return f"{READ}, POST, PUT, PATCH, DELETE"


json_host_meta = partial(host_meta, as_json=True)
