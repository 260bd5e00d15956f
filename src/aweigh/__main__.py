"""`python -m aweigh`, the same as the command `aweigh` (and what `torchrun -m aweigh` starts)."""

from aweigh.cli.main import main

main()
