"""Requests become answers: submits them to the worker, keeps it alive, and tells when each ends.

Runs in the API process; knows no HTTP and no torch.
"""
