"""What a generation becomes on the wire, one file for each form of answer."""
