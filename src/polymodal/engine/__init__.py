"""A model loaded for use, without the training side."""

from polymodal.engine.engine import Embedded, Engine, Guess, ItemFault
from polymodal.engine.predict import Prediction, Predictor
from polymodal.engine.sources import load, load_engine, load_predictor

__all__ = [
    "Embedded",
    "Engine",
    "Guess",
    "ItemFault",
    "Prediction",
    "Predictor",
    "load",
    "load_engine",
    "load_predictor",
]
