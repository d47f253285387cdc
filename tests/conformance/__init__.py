"""Which rows of the standards' checklists the tests show."""
