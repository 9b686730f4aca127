"""Fetch: downloads images, or reads them from samples, and normalises them; one status row for every image."""
