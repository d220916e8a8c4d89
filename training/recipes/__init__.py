"""The exact recipes of released weights: their vocabulary, first weights and training material."""
