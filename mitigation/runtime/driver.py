"""Which driver this machine uses: what was asked for, or nftables where the process may, else a dry run."""

from __future__ import annotations

import shutil

from django.conf import settings

from mitigation.runtime.privileges import may_administer_network


def choose() -> tuple[str, str]:
    """The driver's name, and why in a sentence."""
    if settings.DOTS_DRIVER != "auto":
        return settings.DOTS_DRIVER, f"DOTS_DRIVER={settings.DOTS_DRIVER}"
    lacking = what_nftables_lacks()
    if lacking:
        return "dryrun", f"dry run, no traffic is touched: {lacking}"
    return "nftables", f"nftables, in the table inet {settings.DOTS_NFT_TABLE}"


def what_nftables_lacks() -> str:
    """Empty when nftables can be used."""
    if shutil.which("nft") is None:
        return "there is no nft command on PATH"
    if not may_administer_network():
        return "this process may not administer the network (CAP_NET_ADMIN)"
    return ""
