"""The layers that a request passes before its route, and its answer on the way back."""
