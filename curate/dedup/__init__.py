"""Dedup: embeddings or hashes of distinct images → every near pair of them."""
