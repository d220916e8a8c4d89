"""Documents and queries → hits: the index, ingestion and search."""
