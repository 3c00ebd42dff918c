"""A model loaded for use, without the training side."""

from polymodal.engine.answers import Prediction
from polymodal.engine.engine import Embedded, Engine, Guess, ItemFault
from polymodal.engine.predict import Predicted, Predictor
from polymodal.engine.sources import load, load_engine, load_predictor

__all__ = [
    "Embedded",
    "Engine",
    "Guess",
    "ItemFault",
    "Predicted",
    "Prediction",
    "Predictor",
    "load",
    "load_engine",
    "load_predictor",
]
