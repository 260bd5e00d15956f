"""What is written beside an exported detector for programs without Aweigh: images to inputs, outputs to boxes.

`decode.py` and `decode.hpp` are complete files that import nothing of ours; `write.py` copies them.
"""
