"""`python -m faults`: the fault layer's commands without the rest of the harness."""

from faults.cli import group

if __name__ == "__main__":
    group(prog_name="python -m faults")
