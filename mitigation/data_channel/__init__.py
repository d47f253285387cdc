"""The RESTCONF door (RFC 8783)."""
