"""The CoAP door (RFC 9132)."""
