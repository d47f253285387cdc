"""What is remembered: tables, constraints, querysets."""
