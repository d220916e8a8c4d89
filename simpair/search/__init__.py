"""Text → hits: the index, what goes into it, and what it finds."""
