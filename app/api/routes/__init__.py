"""One file for each way of meeting the service."""
