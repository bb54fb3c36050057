"""Measurements, written to ``benchmarks/results``; not shipped with the package."""
