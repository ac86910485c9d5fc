"""What a client's calls raise."""


class ClientError(Exception):
    """Raised when a call was not carried out. `code` is the gRPC status's name, such as ALREADY_EXISTS."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
