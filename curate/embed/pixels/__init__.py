"""Columns measured of the pictures themselves: ours (`basic.py`), and those that other packages bring."""
