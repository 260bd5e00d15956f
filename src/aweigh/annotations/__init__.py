"""What is known of images, whatever file said it: splits in flat arrays, records, problems, outlines, proposals."""
