"""Published weights: where they are, what they are, and how they become ours."""

DEFAULT_MODEL = "fcos_shufflenet_v2_x1_0_lite"  # small enough for a CPU; its weights come with the package
