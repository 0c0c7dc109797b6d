"""``python -m harness.cli``, the form that ``torchrun --module`` takes."""

from harness.cli import main

main(prog_name="harness")
