"""All that crosses the pipe between the API process and the worker: ``messages``, ``channel``."""
