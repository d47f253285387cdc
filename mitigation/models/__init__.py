"""What is remembered: tables, constraints, querysets."""

from mitigation.models.aliases import Alias
from mitigation.models.authorities import CertificateMapping, TrustedAuthority
from mitigation.models.changes import Audit, Change, ChangeCounter
from mitigation.models.domains import Client, Credential, Cuid, Domain, DomainName, DomainPrefix, EquivalentCdid
from mitigation.models.enforcement import EnforcementPoint, Rule, RuleOwner
from mitigation.models.filters import Acl, AclSample, EnforcedAce, RefusedAcl
from mitigation.models.holds import Hold
from mitigation.models.mitigations import Mitigation, Sample, Target, TargetName, Transition
from mitigation.models.people import LoginRecord
from mitigation.models.redirections import Redirection
from mitigation.models.sessions import Session

__all__ = [
    "Acl",
    "AclSample",
    "Alias",
    "Audit",
    "CertificateMapping",
    "Change",
    "ChangeCounter",
    "Client",
    "Credential",
    "Cuid",
    "Domain",
    "DomainName",
    "DomainPrefix",
    "EnforcedAce",
    "EnforcementPoint",
    "EquivalentCdid",
    "Hold",
    "LoginRecord",
    "Mitigation",
    "Redirection",
    "RefusedAcl",
    "Rule",
    "RuleOwner",
    "Sample",
    "Session",
    "Target",
    "TargetName",
    "Transition",
    "TrustedAuthority",
]
