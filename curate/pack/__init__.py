"""The result: kept pairs as WebDataset shards with tables beside them, and a card that says what they are."""
