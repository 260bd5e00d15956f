"""Boxes, masks, objects in space and frames of images, as arrays."""
