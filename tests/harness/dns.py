"""A small DNS server on loopback whose answers a test changes as it goes."""

from __future__ import annotations

import socket
import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset


@dataclass
class Zone:
    """Answers by name. A name that is absent does not exist; one in `failing` is answered SERVFAIL."""

    addresses: dict[str, list[str]] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)  # CNAME
    failing: set[str] = field(default_factory=set)
    ttl: int = 60
    validated: bool = False  # AD is set in what is answered
    asked: list[str] = field(default_factory=list)
    port: int = 0

    @property
    def server(self) -> str:
        return f"127.0.0.1:{self.port}"

    def answer(self, query: dns.message.Message) -> dns.message.Message:
        response = dns.message.make_response(query)
        response.flags |= dns.flags.RA | (dns.flags.AD if self.validated else 0)
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True).lower()
        self.asked.append(name)
        if name in self.failing:
            response.set_rcode(dns.rcode.SERVFAIL)
            return response
        if name in self.aliases:
            target = self.aliases[name]
            response.answer.append(dns.rrset.from_text(f"{name}.", self.ttl, "IN", "CNAME", f"{target}."))
            name = target
        if name not in self.addresses:
            response.set_rcode(dns.rcode.NXDOMAIN)
            return response
        family = dns.rdatatype.to_text(question.rdtype)
        found = [text for text in self.addresses[name] if (":" in text) == (family == "AAAA")]
        if found:
            response.answer.append(dns.rrset.from_text(f"{name}.", self.ttl, "IN", family, *found))
        return response


@contextmanager
def serving(zone: Zone) -> Iterator[Zone]:
    """Answer over UDP until the block ends."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bound:
        bound.bind(("127.0.0.1", 0))
        zone.port = bound.getsockname()[1]
        thread = threading.Thread(target=_serve, args=(bound, zone), daemon=True)
        thread.start()
        try:
            yield zone
        finally:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
                last.sendto(b"", ("127.0.0.1", zone.port))
            thread.join(timeout=5)


@contextmanager
def serving_tls(zone: Zone, certificate: Path, key: Path) -> Iterator[str]:
    """Answer over TLS (RFC 7858) until the block ends; the resolver's address as `tls://..#localhost`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    class Handler(socketserver.StreamRequestHandler):
        def setup(self) -> None:
            self.request.settimeout(10)
            self.request = context.wrap_socket(self.request, server_side=True)
            super().setup()

        def finish(self) -> None:
            super().finish()
            self.request.close()

        def handle(self) -> None:
            while length := self.rfile.read(2):
                query = dns.message.from_wire(self.rfile.read(int.from_bytes(length)))
                wire = zone.answer(query).to_wire()
                self.wfile.write(len(wire).to_bytes(2) + wire)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """A client that does not trust us hangs up; that is what its test wants."""

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"tls://127.0.0.1:{server.server_address[1]}#localhost"
        finally:
            server.shutdown()
            thread.join(timeout=5)


def _serve(bound: socket.socket, zone: Zone) -> None:
    while True:
        data, peer = bound.recvfrom(4096)
        if not data:
            return
        bound.sendto(zone.answer(dns.message.from_wire(data)).to_wire(), peer)
