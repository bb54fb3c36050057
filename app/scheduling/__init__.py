"""Who takes part in the next step, and when everybody will be done: without clock or tensor.

``batcher`` chooses the samples of each step, ``row_cap`` how many at most; ``forecast`` runs the
batcher forward over learned ``costs``.
"""
