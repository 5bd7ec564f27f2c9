"""The report of a preparation: table, HTML page, pictures."""
