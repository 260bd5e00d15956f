"""A detector run over images: batches, views, several images at a time, and how it fits a data set."""
