"""Certificates of clients: list and revoke; authorities besides our own, and whom their certificates stand for."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from django.conf import settings

from mitigation.exceptions import MalformedRequest
from mitigation.management.commands._output import Verbs, actor, now
from mitigation.models import CertificateMapping, Credential, TrustedAuthority
from mitigation.pki.authority import open_authority
from mitigation.pki.home import Home
from mitigation.pki.usernames import MapType
from mitigation.services import authorities, certificates


class Command(Verbs):
    help = "List and revoke client certificates; trust those of other authorities."
    verbs = {
        "list": "the certificates there are",
        "revoke": "end one and cut its sessions",
        "trust": "believe what an authority signs for clients, or take its new revocation list",
        "distrust": "believe it no more",
        "trusted": "the authorities that are believed besides our own",
        "map": "an entry of the list that leads from such certificates to clients (RFC 7589, section 7)",
        "unmap": "remove one",
        "mappings": "the list, in order; the first entry that yields a name decides",
    }

    def arguments_revoke(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "serial", metavar="SERIAL", help="as `certificate list` shows it, or the SHA-256 fingerprint; hexadecimal"
        )
        parser.add_argument("--reason", default="revoked by an administrator")

    def do_list(self, options: Mapping[str, Any]) -> None:
        when = now()
        rows = [
            {
                "serial": row.serial,
                "client": row.client.name,
                "state": "expired" if row.state == "active" and row.not_after <= when else row.state,
                "not_after": row.not_after,
            }
            for row in Credential.objects.select_related("client").order_by("not_after")
        ]
        self.show_rows(rows, options, empty="No certificate yet; `manage.py client add` issues the first.")

    def do_revoke(self, options: Mapping[str, Any]) -> None:
        credential = certificates.revoke(options["serial"], reason=options["reason"], actor=actor(), now=now())
        certificates.publish_revocations(open_authority(Home(settings.DOTS_HOME)), now=now())
        values = {"serial": credential.serial, "client": credential.client.name, "state": credential.state}
        self.show_one(
            values,
            options,
            sentence=f"certificate {credential.serial} of {credential.client.name} is revoked;"
            " its sessions are cut within two seconds",
        )

    # -- other authorities

    def arguments_trust(self, parser: ArgumentParser) -> None:
        parser.add_argument("name", metavar="NAME")
        parser.add_argument("--ca", required=True, type=Path, help="PEM: the authority that signs the clients itself")
        parser.add_argument("--crl", required=True, type=Path, help="PEM: its revocation list; give each new one")

    def do_trust(self, options: Mapping[str, Any]) -> None:
        row = authorities.trust(
            options["name"], _read(options["ca"]), _read(options["crl"]), _home(), actor=actor(), now=now()
        )
        sentence = f"authority {row.name} is trusted; `manage.py certificate map` says whom its certificates stand for"
        self.show_one({"name": row.name, "sha256": row.fingerprint}, options, sentence=sentence)

    def arguments_distrust(self, parser: ArgumentParser) -> None:
        parser.add_argument("name", metavar="NAME")

    def do_distrust(self, options: Mapping[str, Any]) -> None:
        authorities.distrust(options["name"], _home(), actor=actor(), now=now())
        sentence = f"authority {options['name']} is trusted no more; sessions by its certificates are cut"
        self.show_one({"name": options["name"]}, options, sentence=sentence)

    def do_trusted(self, options: Mapping[str, Any]) -> None:
        rows = [
            {"name": row.name, "sha256": row.fingerprint, "since": row.added_at}
            for row in TrustedAuthority.objects.order_by("name")
        ]
        self.show_rows(rows, options, empty="No authority but the server's own is trusted.")

    def arguments_map(self, parser: ArgumentParser) -> None:
        whose = parser.add_mutually_exclusive_group(required=True)
        whose.add_argument("--authority", metavar="NAME", help="certificates that this trusted authority has signed")
        whose.add_argument("--certificate", type=Path, metavar="FILE", help="PEM: this one certificate")
        parser.add_argument("--type", required=True, choices=[one.value for one in MapType])
        parser.add_argument("--client", default="", help="with specified: whom it stands for")
        parser.add_argument("--domain", default="", help="with the other types: whose clients may be named")
        parser.add_argument("--at", type=int, metavar="N", help="place in the list, 1 first; otherwise at its end")

    def do_map(self, options: Mapping[str, Any]) -> None:
        if options["at"] is not None and options["at"] < 1:
            raise MalformedRequest("the first place of the list is 1")
        fingerprint = (
            authorities.find_authority(options["authority"]).fingerprint
            if options["authority"]
            else authorities.fingerprint(_read(options["certificate"]))
        )
        row = authorities.add_mapping(
            fingerprint,
            MapType(options["type"]),
            client=options["client"],
            domain=options["domain"],
            at=options["at"],
            actor=actor(),
            now=now(),
        )
        self.show_one({"position": row.position}, options, sentence=f"entry {row.position} of the list is made")

    def arguments_unmap(self, parser: ArgumentParser) -> None:
        parser.add_argument("position", type=int, metavar="N")

    def do_unmap(self, options: Mapping[str, Any]) -> None:
        authorities.remove_mapping(options["position"], actor=actor(), now=now())
        sentence = "the entry is removed; whoever it alone let in is out"
        self.show_one({"position": options["position"]}, options, sentence=sentence)

    def do_mappings(self, options: Mapping[str, Any]) -> None:
        names = dict(TrustedAuthority.objects.values_list("fingerprint", "name"))
        rows = [
            {
                "position": row.position,
                "of": names.get(row.fingerprint, row.fingerprint),
                "type": row.map_type,
                "client": row.client.name if row.client else None,
                "domain": row.domain.name if row.domain else None,
            }
            for row in CertificateMapping.objects.select_related("client", "domain")
        ]
        self.show_rows(rows, options, empty="The list is empty: certificates stand for whom they were issued to here.")


def _home() -> Home:
    return Home(settings.DOTS_HOME)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise MalformedRequest(f"{path} cannot be read: {error.strerror}") from None
