"""The result: writes the kept pairs as shards, in every layout that the recipe names, and a card about them."""
