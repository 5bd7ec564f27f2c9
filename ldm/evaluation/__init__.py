"""Metrics, experiments and multiple-instance learning."""
