"""Embeddings → neighbours: scores, exact search, and its file cache. The only importer of faiss."""
