"""open_clip models: finds their files, checks them, loads them, and computes with their two towers."""
