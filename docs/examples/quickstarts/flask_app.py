"""A Flask app in the form of its quick start, with a model called where the request is handled."""

import torch
from flask import Flask

app = Flask(__name__)
model = torch.nn.Linear(8, 1)


@app.route("/health")
def health():
    return "ok"


@app.route("/predict/<int:number>")
def predict(number):
    with torch.inference_mode():
        return {"number": number, "prediction": model(torch.full((8,), float(number))).item()}
