"""A detector run over images: batches, views, several images at a time."""
