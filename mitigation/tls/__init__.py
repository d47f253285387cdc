"""(D)TLS on GnuTLS: engines without sockets, and aiocoap transports on top of them."""
