"""Which images are near each other: every pair of distinct digests with a cosine from a floor upwards."""
