"""A guarded HTTP client: one URL to its bytes, from public addresses only, bounded in time, bytes and redirects."""
