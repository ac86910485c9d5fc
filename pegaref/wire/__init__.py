"""The gRPC wire: PegaFlow's Engine service by message and field number, and the code generated from it."""
