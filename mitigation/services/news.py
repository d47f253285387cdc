"""What changed since a number of the change counter, in the order of commits."""

from __future__ import annotations

from mitigation.models import Change, ChangeCounter

MOST = 4_000  # changes; of more it is as quick to read all there is


def latest() -> int:
    """The number of the newest committed change."""
    return ChangeCounter.objects.filter(pk=1).values_list("value", flat=True).first() or 0


def mitigations_between(after: int, up_to: int) -> set[int] | None:
    """Those that somebody said to have changed; None where they are too many, or not listed any more."""
    if not 0 <= up_to - after <= MOST:
        return None
    rows = Change.objects.filter(number__gt=after, number__lte=up_to).values_list("topic", "object_id")
    listed = list(rows)
    if len(listed) < up_to - after:
        return None
    return {object_id for topic, object_id in listed if topic == Change.Topic.MITIGATION}
