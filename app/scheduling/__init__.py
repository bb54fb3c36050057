"""The choice of samples for each step, and the prediction of their ends: no clock, no tensor.

``batcher`` chooses the samples of each step, ``row_cap`` how many at most; ``forecast`` runs the
batcher forward over learned ``costs``.
"""
