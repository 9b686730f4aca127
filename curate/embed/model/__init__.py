"""An open_clip model: its files, what it is, its loading, and its two towers."""
