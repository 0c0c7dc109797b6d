"""``python -m harness``, where the ``harness`` command is not on the path."""

from harness.cli import main

main(prog_name="harness")
