"""The commands, one module each: `main.py` reads the command line and calls them."""
