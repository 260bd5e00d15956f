"""Image files: finding them, reading their pixels, whatever is particular to a kind of file."""
