"""The list formats, a file each: a file's bytes → chunks of columns."""
