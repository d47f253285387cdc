"""Who may ask for protection, for what, and how they prove who they are."""

from __future__ import annotations

from datetime import datetime

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q

from mitigation.protocol.constants import LEAST_FILTER_LIFETIME, MAXIMUM_LIFETIME

_LIFETIMES = [MinValueValidator(1), MaxValueValidator(MAXIMUM_LIFETIME)]


class Domain(models.Model):
    """A DOTS client domain (RFC 8811): the organisation, and what it may ask for."""

    class ConflictPolicy(models.TextChoices):
        """What becomes of an immediate request that overlaps an active one of another client of the domain."""

        BOTH = "both"  # both stay active
        REFUSE_NEW = "refuse-new"
        DEACTIVATE_NEW = "deactivate-new"  # kept, inactive, until the other has ended and it is asked for again

    class FilterConflict(models.TextChoices):
        """What becomes of a filter that does the opposite of another client's of the domain (RFC 8783, section 3.1)."""

        REFUSE_NEW = "refuse-new"  # section 7.2: where nothing else is said
        REFUSE_ALL = "refuse-all"  # and the other one is switched off
        ASK = "ask"  # kept, not enforced until an operator allows it

    class Approval(models.TextChoices):
        """Who lets a request be enforced that is inside the domain's policy."""

        AUTOMATIC = "automatic"
        ONE = "one"  # an operator
        TWO = "two"  # different people

    name = models.CharField(max_length=255, unique=True)
    created_at = models.DateTimeField()
    conflict_policy = models.CharField(max_length=16, choices=ConflictPolicy.choices, default=ConflictPolicy.BOTH)
    filter_conflict = models.CharField(max_length=10, choices=FilterConflict.choices, default=FilterConflict.REFUSE_NEW)
    filter_lifetime = models.PositiveIntegerField(
        default=LEAST_FILTER_LIFETIME,
        validators=[MinValueValidator(LEAST_FILTER_LIFETIME), MaxValueValidator(2**31 - 1)],
    )  # minutes, of aliases and filters that nobody refreshes; pending-lifetime is an int32
    approval = models.CharField(max_length=9, choices=Approval.choices, default=Approval.AUTOMATIC)
    approval_within = models.PositiveIntegerField(
        default=900, validators=[MinValueValidator(1)]
    )  # seconds, then refused
    maximum_lifetime = models.PositiveBigIntegerField(default=86_400, validators=_LIFETIMES)  # seconds; granted at most
    grants_indefinite = models.BooleanField(default=False)  # whether lifetime -1 is granted as asked
    maximum_mitigations = models.PositiveIntegerField(default=1_000)  # live ones, over all clients
    maximum_per_minute = models.PositiveIntegerField(default=0)  # new ones, over all clients; 0: no limit
    maximum_targets = models.PositiveIntegerField(default=0)  # prefixes, names and URIs of one request; 0: no limit
    widest_ipv4 = models.PositiveSmallIntegerField(default=0, validators=[MaxValueValidator(32)])  # prefix length
    widest_ipv6 = models.PositiveSmallIntegerField(default=0, validators=[MaxValueValidator(128)])
    shadow = models.BooleanField(default=False)  # everything but installing: rules are rendered and shown
    allowed_playbooks = models.JSONField(default=list, blank=True)  # names; empty: all there are
    playbook = models.CharField(max_length=32, default="shield")
    playbook_parameters = models.JSONField(default=dict, blank=True)
    ladder = models.JSONField(default=list, blank=True)  # playbooks, narrowest first; empty: `playbook` alone
    step_packets = models.PositiveBigIntegerField(default=0)  # a second that still pass: one step up; 0: not by packets
    step_octets = models.PositiveBigIntegerField(default=0)  # the same in octets
    step_up_after = models.PositiveIntegerField(default=30, validators=[MinValueValidator(1)])  # seconds above
    step_down_after = models.PositiveIntegerField(default=300, validators=[MinValueValidator(1)])  # seconds below
    step_lasts = models.PositiveIntegerField(default=900, validators=[MinValueValidator(1)])  # seconds, then it reverts
    never_block = models.JSONField(default=list, blank=True)  # prefixes, text
    attack_over_after = models.PositiveIntegerField(default=300)  # seconds without a drop that mean status 3; 0: never
    https_over_udp = models.BooleanField(default=False)  # an https URI also means UDP on its port (HTTP/3)
    contact = models.CharField(max_length=255, blank=True)

    def __str__(self) -> str:
        return self.name

    @property
    def steps(self) -> bool:
        """Whether its mitigations go from one playbook to another by what their counters say."""
        return len(self.ladder) > 1 and bool(self.step_packets or self.step_octets)


class DomainPrefix(models.Model):
    """Addresses the domain may ask for, as a range of 16-byte keys; ranges of two domains never overlap."""

    domain = models.ForeignKey(Domain, on_delete=models.CASCADE, related_name="prefixes")
    prefix = models.CharField(max_length=50, unique=True)
    family = models.PositiveSmallIntegerField()
    first = models.BinaryField(max_length=16)
    last = models.BinaryField(max_length=16)

    class Meta:
        constraints = [models.CheckConstraint(condition=Q(family__in=[4, 6]), name="domainprefix_family")]
        indexes = [models.Index(fields=["family", "first"], name="domainprefix_range")]  # overlap at creation

    def __str__(self) -> str:
        return self.prefix


class DomainName(models.Model):
    """A fully qualified name the domain may ask for."""

    domain = models.ForeignKey(Domain, on_delete=models.CASCADE, related_name="names")
    fqdn = models.CharField(max_length=253, unique=True)

    def __str__(self) -> str:
        return self.fqdn


class Client(models.Model):
    """One DOTS agent of a domain."""

    domain = models.ForeignKey(Domain, on_delete=models.CASCADE, related_name="clients")
    name = models.CharField(max_length=255, unique=True)
    created_at = models.DateTimeField()
    enabled = models.BooleanField(default=True)
    is_gateway = models.BooleanField(default=False)  # trusted to say by cdid for whom it asks (RFC 9132, 4.4.1.2)

    def __str__(self) -> str:
        return self.name


class Cuid(models.Model):
    """A cuid belongs to the client that used it first (RFC 9132, section 4.4.1.1); behind a gateway, within a cdid."""

    client = models.ForeignKey(Client, on_delete=models.CASCADE, related_name="cuids")
    cdid = models.CharField(max_length=250, blank=True)
    cuid = models.CharField(max_length=250)
    since = models.DateTimeField()
    registered_at = models.DateTimeField(null=True, blank=True)  # on the data channel (RFC 8783, section 5.1)
    changed_at = models.DateTimeField(null=True, blank=True)  # aliases, filters and their order

    class Meta:
        constraints = [models.UniqueConstraint(fields=["cuid", "cdid"], name="cuid_owner")]


class EquivalentCdid(models.Model):
    """Two cdids of one DOTS client that comes through two gateways (RFC 9132, section 4.4.1.2), as an operator says.

    What `gateway` asks for under `cdid` is taken for what `same_as_gateway` asks for under `same_as_cdid`.
    """

    gateway = models.ForeignKey(Client, on_delete=models.CASCADE, related_name="equivalent_cdids")
    cdid = models.CharField(max_length=250)
    same_as_gateway = models.ForeignKey(Client, on_delete=models.CASCADE, related_name="+")
    same_as_cdid = models.CharField(max_length=250)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["gateway", "cdid"], name="equivalent_cdid")]

    def __str__(self) -> str:
        return f"{self.gateway}/{self.cdid} = {self.same_as_gateway}/{self.same_as_cdid}"


class CredentialQuerySet(models.QuerySet["Credential"]):
    def usable(self, now: datetime) -> CredentialQuerySet:
        """Those that open a session: of an enabled client, not revoked, inside their validity."""
        return self.filter(state=Credential.State.ACTIVE, client__enabled=True, not_before__lte=now, not_after__gt=now)

    def revoked(self) -> CredentialQuerySet:
        """Those that our own authority has to name in its list."""
        return self.filter(state=Credential.State.REVOKED, mapped=False)


class Credential(models.Model):
    """How a client proves itself. A client may have several, so that rotation needs no gap."""

    class Kind(models.TextChoices):
        X509 = "x509"

    class State(models.TextChoices):
        ACTIVE = "active"
        REVOKED = "revoked"
        UNMAPPED = "unmapped"  # no entry of the list leads from it to a client any more; one may again

    client = models.ForeignKey(Client, on_delete=models.CASCADE, related_name="credentials")
    kind = models.CharField(max_length=8, choices=Kind.choices, default=Kind.X509)
    mapped = models.BooleanField(default=False)  # of another authority: whose it is follows from CertificateMapping
    state = models.CharField(max_length=8, choices=State.choices, default=State.ACTIVE)
    fingerprint = models.CharField(max_length=64, unique=True)  # SHA-256 of the DER certificate, hex
    serial = models.CharField(max_length=40)  # hex
    subject = models.CharField(max_length=255)
    certificate = models.TextField()  # PEM; the private key is never kept
    issued_at = models.DateTimeField()
    not_before = models.DateTimeField()
    not_after = models.DateTimeField()
    revoked_at = models.DateTimeField(null=True, blank=True)
    revocation_reason = models.CharField(max_length=255, blank=True)

    objects = CredentialQuerySet.as_manager()

    class Meta:
        constraints = [
            # Other authorities count for themselves.
            models.UniqueConstraint(fields=["kind", "serial"], condition=Q(mapped=False), name="credential_serial"),
            models.CheckConstraint(
                condition=Q(state__in=["active", "unmapped"], revoked_at=None)
                | Q(state="revoked", revoked_at__isnull=False),
                name="credential_revoked_at",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.serial} of {self.client_id}"
