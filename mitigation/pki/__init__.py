"""X.509: profiles, signing, parsing, revocation lists."""
