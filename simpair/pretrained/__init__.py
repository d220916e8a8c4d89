"""Nothing of its own: a place for the bundled checkpoint and the notice of its terms."""
