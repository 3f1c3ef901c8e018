"""What writes the pages of the documentation that follow from the code: `python docs/write.py`."""
