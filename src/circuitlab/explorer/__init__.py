"""The explorer: stored runs as one page, in a notebook or in a file.

`explore` gathers (`stored`) or measures (`measure`) what is shown, `payload` puts it into one JSON object, and `page` and `widget` show it.
"""
