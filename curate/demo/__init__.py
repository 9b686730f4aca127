"""A small web of drawn pairs whose truth is known, served on loopback addresses."""
