"""An API client of the data channel: HTTPS with a certificate, every header and octet the test's own."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.harness.product import Files, Product

MEDIA_TYPE = "application/yang-data+json"
MODULE = "ietf-dots-data-channel"
ROOT = "/restconf"
DATA = f"{ROOT}/data"
DOTS_DATA = f"{DATA}/{MODULE}:dots-data"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]  # names in lower case
    content: bytes

    @property
    def json(self) -> Any:
        """Announced as YANG data in JSON."""
        assert self.headers["content-type"] == MEDIA_TYPE, (self.status, self.headers, self.content[:200])
        return json.loads(self.content)

    @property
    def error(self) -> dict[str, Any]:
        """The only error there is."""
        (only,) = self.json["ietf-restconf:errors"]["error"]
        return dict(only)

    @property
    def fault(self) -> tuple[int, str]:
        """Status and error-tag."""
        return self.status, self.error["error-tag"]

    @property
    def etag(self) -> str:
        return self.headers["etag"]


class Rest:
    """One connection. Paths that do not begin with `/` go below the client's own entry."""

    def __init__(self, product: Product, files: Files | None, *, cuid: str = "", ca: Path | None = None) -> None:
        self.files = files
        self.cuid = cuid or (files.name if files is not None else "")
        self._product = product
        self._ca = ca or (files.ca if files is not None else None)
        self._connection: http.client.HTTPSConnection | None = None

    @property
    def mine(self) -> str:
        return f"{DOTS_DATA}/dots-client={self.cuid}"

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def ask(
        self,
        method: str,
        path: str = "",
        body: Any = None,
        *,
        headers: Mapping[str, str] | None = None,
        content_type: str | None = MEDIA_TYPE,
    ) -> Answer:
        """`body` bytes as they are, anything else as JSON."""
        given = {"Accept": MEDIA_TYPE, **(headers or {})}
        content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        if content is not None and content_type is not None:
            given["Content-Type"] = content_type
        given = {name: value for name, value in given.items() if value}
        if self._connection is None:
            self._connection = self._connect()
        self._connection.request(method, self._path(path), body=content, headers=given)
        answer = self._connection.getresponse()
        found = {name.lower(): value for name, value in answer.getheaders()}
        read = answer.read()
        if answer.will_close:
            self.close()
        assert "cache-control" in found, (method, path, answer.status)
        return Answer(answer.status, found, read)

    def get(self, path: str = "", **more: Any) -> Answer:
        return self.ask("GET", path, **more)

    def post(self, path: str = "", body: Any = None, **more: Any) -> Answer:
        return self.ask("POST", path, body, **more)

    def put(self, path: str = "", body: Any = None, **more: Any) -> Answer:
        return self.ask("PUT", path, body, **more)

    def patch(self, path: str = "", body: Any = None, **more: Any) -> Answer:
        return self.ask("PATCH", path, body, **more)

    def delete(self, path: str = "", **more: Any) -> Answer:
        return self.ask("DELETE", path, **more)

    def register(self) -> Answer:
        return self.post(DOTS_DATA, {f"{MODULE}:dots-client": [{"cuid": self.cuid}]})

    def post_alias(self, *aliases: Mapping[str, Any]) -> Answer:
        """As RFC 8783, figure 16, does."""
        return self.post("", {f"{MODULE}:aliases": {"alias": list(aliases)}})

    def post_acl(self, *acls: Mapping[str, Any]) -> Answer:
        """As RFC 8783, figure 24, does."""
        return self.post("", {f"{MODULE}:acls": {"acl": list(acls)}})

    def _path(self, path: str) -> str:
        if path.startswith("/"):
            return path
        return f"{self.mine}/{path}" if path and not path.startswith("?") else self.mine + path

    def _connect(self) -> http.client.HTTPSConnection:
        files = self.files
        context = ssl.create_default_context(cafile=str(self._ca))
        if files is not None:
            context.load_cert_chain(files.cert, files.key)
        return http.client.HTTPSConnection("localhost", self._product.data_port, context=context, timeout=30)
