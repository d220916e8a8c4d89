"""The bundled checkpoint and the notice of its terms. Contains no code."""
