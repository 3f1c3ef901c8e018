"""The explorer: stored runs as one page, in a notebook or in a file.

`explore` gathers (`stored`) or measures (`measurements`) what is shown, `payload` makes it one JSON object, `page` and `widget` show it.
"""
