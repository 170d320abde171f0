"""Rooms in the layouts in which ScanNet and its language sets are distributed."""
