"""What a request passes before its route, and its answer on the way back."""
