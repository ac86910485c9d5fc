"""`python -m pegaref.client`: a client process to put beside a server."""

from pegaref.client.cli import main

if __name__ == "__main__":
    main()
