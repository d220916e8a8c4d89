"""Packed batch → token states; one file a kind of tower."""
