"""A detector as a graph that other programs run: written, compared with the detector, and described."""
