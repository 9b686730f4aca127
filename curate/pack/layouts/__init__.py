"""The result layouts, one module each: the file formats in which the kept pairs are written."""
