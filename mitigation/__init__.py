"""The DOTS server."""
