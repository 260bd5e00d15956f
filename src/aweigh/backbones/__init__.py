"""Backbones: image to feature maps, fine to coarse."""
