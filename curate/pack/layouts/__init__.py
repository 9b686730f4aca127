"""The result layouts, a file each: the file formats in which the kept pairs are written."""
