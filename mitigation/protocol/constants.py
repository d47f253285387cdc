"""Numbers of the protocol, each beside where it is registered or recommended."""

from __future__ import annotations

# IANA service name dots-signal (RFC 9132, section 10.1).
PORT = 4646

# application/dots+cbor: content format and CBOR tag have the same number (RFC 9132, sections 10.4 and 10.5).
CONTENT_FORMAT = 271
CBOR_TAG = 271
JSON = 50  # content format application/json, of the early draft (RFC 7252, section 12.3)

# RFC 9132, section 4.2, Table 1.
WELL_KNOWN = (".well-known", "dots")

# lifetime, in seconds (RFC 9132, section 4.4.1.1).
RECOMMENDED_LIFETIME = 3600
INDEFINITE_LIFETIME = -1
MAXIMUM_LIFETIME = 2**32 - 1  # YANG ietf-dots-signal-channel: uint32

# Of an alias or a filter that nobody refreshes, in minutes: a week at least (RFC 8783, sections 6.1 and 7.2).
LEAST_FILTER_LIFETIME = 10_080

# What a deactivated request lasts beyond its retry-timer, in seconds (RFC 9132, section 4.4.1.3).
RETRY_MARGIN = 45

MAXIMUM_MID = 2**32 - 1
MAXIMUM_CUID_OCTETS = 250  # "cuid=" and the value share one Uri-Path option of 255 octets (RFC 7252, section 5.10)

# Active-but-terminating period, in seconds (RFC 9132, section 4.4.4); the first is the default of
# DOTS_TERMINATING_PERIOD.
FIRST_GRACE = 120
LONGEST_GRACE = 300

# CoAP transmission parameters with the defaults of RFC 9132, section 4.5.2 and appendix C.
ACK_TIMEOUT = 2.0
ACK_RANDOM_FACTOR = 1.5
MAX_RETRANSMIT = 3
HEARTBEAT_INTERVAL = 30
MISSING_HB_ALLOWED = 15

# Without an estimate of the round trip, one notification every 3 s at most (RFC 9132, section 4.4.2.1).
NOTIFICATION_GAP = 3.0
# Latest state repeated during active mitigation, for observers whose notification was lost (RFC 9132 gives no figure):
# the default of DOTS_NOTIFICATION_PERIOD.
NOTIFICATION_PERIOD = 30.0

# How long a request withdrawn by the server stays visible with status 7, so that a client that polls is told.
WITHDRAWN_SHOWN = 120

# A preconfigured request tells 3 or 7 four times and then 8 (RFC 9132, section 4.4.2, Table 3): at once, after one, two
# and three periods, and not a fourth. In periods of notification.
TOLD_FOUR_TIMES = 3.5

# Payload of a CoAP message when nothing is known of the path (RFC 7252, section 4.6).
MAXIMUM_PAYLOAD = 1024
