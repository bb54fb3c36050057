"""Stored requests: accepted work and its results, in a database that outlives the process."""
