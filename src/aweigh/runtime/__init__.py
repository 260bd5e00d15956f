"""Running a detector, whatever computes it: engines, and the views of test-time augmentation."""
