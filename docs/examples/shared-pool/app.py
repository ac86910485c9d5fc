"""A small model server, with a bug that no test with one request finds.

`health` is written with `def`, like `predict`. Starlette (and FastAPI, which is made of it) runs every `def`
endpoint on one pool of 40 threads. When 40 predictions wait for a GPU that does not answer, no thread is left
to say that the server is alive.
"""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route


def score(text: str) -> float:
    """Stands for the model on the GPU."""
    return sum(map(ord, text)) % 100 / 100


def predict(request: Request) -> Response:
    return JSONResponse({"score": score(request.query_params.get("text", ""))})


def health(request: Request) -> Response:
    return PlainTextResponse("ok")


app = Starlette(routes=[Route("/predict", predict), Route("/health", health)])
