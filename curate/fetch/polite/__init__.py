"""Limits per host, retries, robots.txt and opt-out headers."""
