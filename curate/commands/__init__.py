"""The commands, a file each: `main.py` reads the command line and calls them."""
