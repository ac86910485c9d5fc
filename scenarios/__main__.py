"""`python -m scenarios` is `wedge`."""

from scenarios.cli.run import main

if __name__ == "__main__":
    main()
