"""The list formats, one module each: a list's bytes → chunks of columns."""
