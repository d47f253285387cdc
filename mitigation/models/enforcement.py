"""Where rules go, and which stand there. Only the enforcer writes Rule rows."""

from __future__ import annotations

from datetime import datetime

from django.db import models

from mitigation.models.mitigations import Mitigation


class EnforcementPoint(models.Model):
    """One device, speaker or local table: its driver, queue, health."""

    class Health(models.TextChoices):
        UNKNOWN = "unknown"
        READY = "ready"
        DOWN = "down"

    name = models.CharField(max_length=64, unique=True)
    driver = models.CharField(max_length=32)
    enforces = models.BooleanField(default=False)  # False: dry run, nothing is ever installed
    counts = models.BooleanField(default=False)  # whether it returns counters
    filter_capabilities = models.JSONField(default=dict, blank=True)  # as its driver has them (RFC 8783, section 7.1)
    enabled = models.BooleanField(default=True)
    health = models.CharField(max_length=8, choices=Health.choices, default=Health.UNKNOWN)
    health_sentence = models.CharField(max_length=255, blank=True)
    health_at = models.DateTimeField(null=True, blank=True)

    # A change raises `wanted`; a reconciliation that started at n sets `reconciled` to n. Unequal means dirty.
    wanted = models.BigIntegerField(default=0)
    reconciled = models.BigIntegerField(default=0)
    reconciled_at = models.DateTimeField(null=True, blank=True)

    # The fenced lease: who works on this point, until when; `fence` grows with each new holder.
    lease_holder = models.CharField(max_length=64, blank=True)
    leased_until = models.DateTimeField(null=True, blank=True)
    fence = models.BigIntegerField(default=0)

    def __str__(self) -> str:
        return self.name

    @property
    def queue(self) -> str:
        return f"enforcement.{self.name}"

    @property
    def is_dirty(self) -> bool:
        return self.wanted != self.reconciled

    def is_leased(self, now: datetime) -> bool:
        return self.leased_until is not None and self.leased_until > now


class Rule(models.Model):
    """One canonical rule at one point, keyed by its match: desired, and as read back."""

    class State(models.TextChoices):
        WANTED = "wanted"
        INSTALLED = "installed"
        FAILED = "failed"
        SHADOW = "shadow", "Rendered"  # shown only: its domain is in shadow mode

    point = models.ForeignKey(EnforcementPoint, on_delete=models.CASCADE, related_name="rules")
    key = models.CharField(max_length=200)
    kind = models.CharField(max_length=32)
    text = models.CharField(max_length=500)
    drops = models.BooleanField()  # False: it redirects, or only counts what got through
    state = models.CharField(max_length=10, choices=State.choices, default=State.WANTED)
    mitigations = models.ManyToManyField(Mitigation, through="RuleOwner", related_name="rules")
    since = models.DateTimeField()
    installed_at = models.DateTimeField(null=True, blank=True)
    deadline = models.DateTimeField(null=True, blank=True)  # held by the equipment
    read_at = models.DateTimeField(null=True, blank=True)

    # Totals since the rule came; `raw_*` is the last reading in `epoch`, against which the next one is compared.
    packets = models.BigIntegerField(default=0)
    octets = models.BigIntegerField(default=0)
    epoch = models.CharField(max_length=64, blank=True)
    raw_packets = models.BigIntegerField(default=0)
    raw_octets = models.BigIntegerField(default=0)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["point", "key"], name="rule_key")]


class RuleOwner(models.Model):
    """A rule needed by several mitigations counts for each."""

    rule = models.ForeignKey(Rule, on_delete=models.CASCADE)
    mitigation = models.ForeignKey(Mitigation, on_delete=models.CASCADE)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["rule", "mitigation"], name="ruleowner_once")]
