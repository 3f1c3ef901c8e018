"""The report of a study, a single HTML file."""
