"""Metrics: pure functions of features, probabilities or pictures, one file a family, no file read or written."""
