"""Texts → embeddings: tokens, batches, towers, pooling, dense layers."""
