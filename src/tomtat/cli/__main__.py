"""`python -m tomtat.cli`, as `accelerate launch -m tomtat.cli train ...` needs it."""

from tomtat.cli import main

main()
