"""Columns measured on the pictures' pixels: built-in ones (`basic.py`), and scorers of other packages."""
