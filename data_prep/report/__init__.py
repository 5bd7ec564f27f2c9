"""What became of the slides of a cohort: a table, a page, pictures."""
