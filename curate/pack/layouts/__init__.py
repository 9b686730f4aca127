"""The result layouts, a file each: kept pairs → the files in which others read them."""
