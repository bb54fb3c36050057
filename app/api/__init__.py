"""HTTP, and nothing else: requests in, answers and problems out. It never imports torch.

``application`` puts layers and routes together and ``server`` runs it; the way of a request through
them is in ``docs/architecture.md``.
"""
