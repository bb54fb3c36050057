"""What keeps a command of training from starting."""

from app.errors import VariationsError


class CannotStart(VariationsError, title="This cannot start", status=422):
    """The starting point, the data or the settings are wrong; the message says what is right."""
