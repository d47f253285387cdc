"""Rows for a benchmark to find: active mitigations made by the same verb that serves a PUT, and taken away again.

`python -m benchmarks.rows fill FIRST COUNT`   mids FIRST and up, each for one address, as the generator asks for them
`python -m benchmarks.rows ending COUNT SECONDS`   the same under mids of their own that all end in one instant, in so
                                               many seconds; prints that second of the wall clock
`python -m benchmarks.rows remove FIRST`       every mitigation from that mid on
`python -m benchmarks.rows bytes`              the size of the database
"""

from __future__ import annotations

import ipaddress
import os
import sys
from datetime import datetime, timedelta

import django

CUID = "bench"
BATCH = 500
ENDING = 8_000_000  # the first mid of those that are about to end


def main(words: list[str]) -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "dotsweb.settings")
    django.setup()
    from mitigation.runtime import clock

    numbers = [int(word) for word in words[1:]]
    if words[0] == "fill":
        fill(numbers[0], numbers[1], lifetime=86_400, now=clock.now())
    elif words[0] == "ending":
        now = clock.now()
        fill(ENDING, numbers[0], lifetime=numbers[1], now=now)
        print((now + timedelta(seconds=numbers[1])).timestamp())
    elif words[0] == "remove":
        remove(numbers[0])
    else:
        print(size())


def fill(first: int, count: int, *, lifetime: int, now: datetime) -> None:
    """Live mitigations of `lifetime` seconds from `now`."""
    from mitigation.models import Client
    from mitigation.protocol.scope import MitigationRequest, Scope
    from mitigation.services import mitigations
    from mitigation.services.mitigations import Granted, Submission

    client_id = Client.objects.get(name="bench").pk
    for start in range(first, first + count, BATCH):
        batch = [
            Submission(client_id, MitigationRequest(CUID, mid, Scope(target_prefix=(address(mid),)), lifetime))
            for mid in range(start, min(start + BATCH, first + count))
        ]
        for outcome in mitigations.submit_many(batch, now=now):
            assert isinstance(outcome, Granted), outcome


def address(mid: int) -> ipaddress.IPv4Network:
    """As in load.c."""
    return ipaddress.IPv4Network(f"10.{mid >> 16 & 255}.{mid >> 8 & 255}.{mid & 255}/32")


def remove(first: int) -> None:
    """By the database itself: a benchmark leaves no history behind."""
    from django.db import connection, transaction

    ids = "SELECT id FROM mitigation_mitigation WHERE mid >= %s"  # noqa: S608  the tables are named here
    with transaction.atomic(), connection.cursor() as cursor:
        for table in ("target", "targetname", "transition"):
            cursor.execute(f"DELETE FROM mitigation_{table} WHERE mitigation_id IN ({ids})", [first])  # noqa: S608
        cursor.execute("DELETE FROM mitigation_mitigation WHERE mid >= %s", [first])


def size() -> int:
    """Octets of the database, without its log."""
    from django.db import connection

    with connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            cursor.execute("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size")
        else:
            cursor.execute("SELECT pg_database_size(current_database())")
        return int(cursor.fetchone()[0])


if __name__ == "__main__":
    main(sys.argv[1:])
