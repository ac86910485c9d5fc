"""`python -m pegaref` is the `pegaref` command."""

from pegaref.cli import main

if __name__ == "__main__":
    main()
