"""A FastAPI app in the form of its first steps, with a model called where the request is handled."""

import torch
from fastapi import FastAPI

app = FastAPI()
model = torch.nn.Linear(8, 1)


@app.get("/health")
async def health():
    return {"status": "ok"}


@app.get("/predict/{number}")
async def predict(number: float):
    with torch.inference_mode():
        return {"number": number, "prediction": model(torch.full((8,), number)).item()}
