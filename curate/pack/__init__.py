"""The result: kept pairs as shards in every layout that the recipe names, and a card that says what they are."""
