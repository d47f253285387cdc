"""A network on one machine: attacker, clients, router and victim in namespaces of their own."""
