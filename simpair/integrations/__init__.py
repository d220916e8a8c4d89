"""Encoders of other libraries as encoders of simpair; one file per library, which the caller has installed."""
