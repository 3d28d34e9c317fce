"""The formats that tables come in, each read as the same rows."""
