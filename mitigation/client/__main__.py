"""`python -m mitigation.client mitigate|status|withdraw`: ask a DOTS server by hand or from a script.

Exit status: 0 done, 1 refused (code and diagnostic are printed), 2 usage, 3 no connection.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from mitigation.client.identity import Files, Mids
from mitigation.client.library import Answer, Declined, DotsClient, NoAnswer, open_client
from mitigation.exceptions import MalformedRequest
from mitigation.protocol.constants import MAXIMUM_LIFETIME, MAXIMUM_MID, PORT, RECOMMENDED_LIFETIME
from mitigation.protocol.scope import MitigationRequest, PortRange, Scope, parse_target_prefix
from mitigation.tls import BadCredentials, NoConnection

DONE, REFUSED, USAGE, NO_CONNECTION = 0, 1, 2, 3

PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17, "icmpv6": 58, "sctp": 132}
STATUS = {
    1: "attack mitigation is being set up",
    2: "attack traffic is dropped",
    3: "the attack has stopped",
    4: "the server cannot mitigate this",
    5: "withdrawn, active until the grace period ends",
    6: "terminated",
    7: "withdrawn by the server",
    8: "armed: starts when the session is lost",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        return asyncio.run(_run(options))
    except MalformedRequest as error:
        parser.error(str(error))
    except BadCredentials as error:
        return _fail(options, USAGE, {"error": str(error)}, str(error))
    except (NoConnection, NoAnswer) as error:
        return _fail(options, NO_CONNECTION, {"error": str(error)}, f"no connection: {error}")
    except Declined as refusal:
        values = {"code": refusal.code, "diagnostic": refusal.diagnostic, "scope": refusal.entries}
        return _fail(options, REFUSED, values, f"refused: {refusal}{_conflict(refusal)}")
    except OSError as error:
        return _fail(options, USAGE, {"error": str(error)}, str(error))
    except KeyboardInterrupt:
        return DONE


async def _run(options: argparse.Namespace) -> int:
    files = Files(options.ca, options.cert, options.key)
    host, port = options.server
    verb: Callable[[DotsClient, argparse.Namespace], Awaitable[int]] = options.verb
    async with open_client(
        host,
        port,
        credentials=files.credentials(),
        cuid=options.cuid or files.cuid(),
        transport=options.transport,
        server_name=options.server_name,
        patience=options.patience,
    ) as client:
        return await verb(client, options)


async def _mitigate(client: DotsClient, options: argparse.Namespace) -> int:
    mids = Mids(client.cuid)
    mid = mids.take() if options.mid is None else options.mid
    request = MitigationRequest(cuid=client.cuid, mid=mid, scope=_scope(options), lifetime=options.lifetime)
    answer = await client.mitigate(request)
    mids.note(mid)
    granted = answer.entries[0] if answer.entries else {}
    done = "is mitigated from now on" if answer.code == "2.01" else "is refreshed"
    lifetime = granted.get("lifetime")
    shown = "without end" if lifetime == -1 else f"for {lifetime} s"
    return _done(options, answer, f"{answer.code} mid {mid} {done}, {shown}: {', '.join(options.target)}")


async def _status(client: DotsClient, options: argparse.Namespace) -> int:
    if not options.follow:
        return _show(options, await client.status(options.mid))
    async for answer in client.observe(options.mid):
        _show(options, answer)
    return DONE


async def _withdraw(client: DotsClient, options: argparse.Namespace) -> int:
    answer = await client.withdraw(options.mid)
    return _done(options, answer, f"{answer.code} mid {options.mid} is withdrawn")


def _scope(options: argparse.Namespace) -> Scope:
    return Scope(
        target_prefix=tuple(parse_target_prefix(_with_length(text)) for text in options.target),
        target_port_range=tuple(options.port),
        target_protocol=tuple(options.protocol),
    )


def _with_length(text: str) -> str:
    """People write hosts without a length; on the wire they have one."""
    if "/" in text:
        return text
    return f"{text}/128" if ":" in text else f"{text}/32"


def _show(options: argparse.Namespace, answer: Answer) -> int:
    return _done(options, answer, "\n".join(map(_line, answer.entries)))


def _line(entry: dict[str, Any]) -> str:
    status = entry.get("status")
    left = "no end" if entry.get("lifetime") == -1 else f"{entry.get('lifetime')} s left"
    targets = ", ".join(entry.get("target-prefix", []))
    line = f"mid {entry.get('mid')}  status {status} ({STATUS.get(status, 'unknown')})  {left}  {targets}"
    if "pkts-dropped" in entry:
        line += f"  dropped {entry['pkts-dropped']} packets, {entry['bytes-dropped']} octets"
    return line


def _conflict(refusal: Declined) -> str:
    if not refusal.entries:
        return ""
    conflict = refusal.entries[0].get("conflict-information", {})
    causes = {1: "overlapping targets", 2: "conflict with an accept-list", 3: "this cuid is used by another client"}
    text = f": {causes.get(conflict.get('conflict-cause'), 'unknown cause')}"
    mid = conflict.get("conflict-scope", {}).get("mid")
    return f"{text}, see mid {mid}" if mid is not None else text


def _done(options: argparse.Namespace, answer: Answer, sentence: str) -> int:
    if options.json:
        print(json.dumps({"code": answer.code, "scope": answer.entries}), flush=True)
    else:
        print(sentence, flush=True)
    return DONE


def _fail(options: argparse.Namespace, status: int, values: dict[str, Any], sentence: str) -> int:
    if options.json:
        print(json.dumps(values), flush=True)
    else:
        print(sentence, file=sys.stderr)
    return status


# -- command line -----------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--server", required=True, type=_host_and_port, metavar="HOST:PORT")
    common.add_argument("--server-name", help="what the server's certificate must name, when not HOST")
    common.add_argument("--ca", required=True, type=Path, help="PEM: who signed the server's certificate")
    common.add_argument("--cert", required=True, type=Path, help="PEM: this client's certificate")
    common.add_argument("--key", required=True, type=Path, help="PEM: its key")
    common.add_argument("--transport", choices=("udp", "tcp"), default="udp", help="DTLS (default) or TLS")
    common.add_argument("--cuid", help="instead of the one made from the certificate")
    common.add_argument(
        "--patience", type=float, default=15.0, metavar="SECONDS", help="for the session and each answer"
    )
    common.add_argument("--json", action="store_true", help="one JSON object a line")

    parser = argparse.ArgumentParser(prog="python -m mitigation.client", description="Ask a DOTS server (RFC 9132).")
    verbs = parser.add_subparsers(required=True, metavar="mitigate|status|withdraw")

    mitigate = verbs.add_parser("mitigate", parents=[common], help="ask for protection, or refresh it")
    mitigate.add_argument("target", nargs="+", metavar="PREFIX", help="a host or prefix to protect")
    mitigate.add_argument("--mid", type=_mid, help="to refresh this one; a new, higher one by default")
    mitigate.add_argument(
        "--lifetime", type=_lifetime, default=RECOMMENDED_LIFETIME, metavar="SECONDS", help="-1: no end"
    )
    mitigate.add_argument("--port", type=_port_range, action="append", default=[], metavar="N[-M]")
    mitigate.add_argument("--protocol", type=_protocol, action="append", default=[], metavar="tcp|udp|N")
    mitigate.set_defaults(verb=_mitigate)

    status = verbs.add_parser("status", parents=[common], help="what became of it")
    status.add_argument("--mid", type=_mid, help="one only; all by default")
    status.add_argument("--follow", action="store_true", help="stay, and print each change")
    status.set_defaults(verb=_status)

    withdraw = verbs.add_parser("withdraw", parents=[common], help="end protection")
    withdraw.add_argument("--mid", type=_mid, required=True)
    withdraw.set_defaults(verb=_withdraw)
    return parser


def _host_and_port(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        host, port = text, str(PORT)
    host = host.strip("[]")
    if not host or not port.isdigit() or not 0 < int(port) < 65_536:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    return host, int(port)


def _mid(text: str) -> int:
    return _number(text, 0, MAXIMUM_MID, "a mid")


def _lifetime(text: str) -> int:
    return -1 if text == "-1" else _number(text, 1, MAXIMUM_LIFETIME, "a lifetime")


def _port_range(text: str) -> PortRange:
    lower, dash, upper = text.partition("-")
    first = _number(lower, 0, 65_535, "a port")
    last = _number(upper, 0, 65_535, "a port") if dash else first
    if last < first:
        raise argparse.ArgumentTypeError(f"{text!r} ends before it begins")
    return PortRange(first, last)


def _protocol(text: str) -> int:
    return PROTOCOLS[text] if text in PROTOCOLS else _number(text, 0, 255, "a protocol")


def _number(text: str, lowest: int, highest: int, what: str) -> int:
    if not text.isdigit() or not lowest <= int(text) <= highest:
        raise argparse.ArgumentTypeError(f"{text!r} is not {what}: {lowest} to {highest}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
