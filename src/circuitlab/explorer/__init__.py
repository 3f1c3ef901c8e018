"""The explorer: one page, or one widget, of stored runs."""
