"""Side-by-side measurements against peers, and of quality; each prints a table and writes JSON."""
