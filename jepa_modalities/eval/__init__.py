"""Frozen features, probes, statistics and reports: how an encoder is judged beside its controls."""
