"""What was measured, as tables for the terminal and as a page."""
