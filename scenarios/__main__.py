"""`python -m scenarios` is `wedge`."""

from scenarios.cli import main

if __name__ == "__main__":
    main()
