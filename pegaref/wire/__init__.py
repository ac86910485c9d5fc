"""The gRPC wire: PegaFlow's Engine service by message and field number, and the code generated from it."""

__all__ = ["engine_pb2", "engine_pb2_grpc"]
