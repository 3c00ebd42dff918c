"""A model loaded for use, without the training side."""

from polymodal.engine.engine import Embedded, Engine, Fault, Guess
from polymodal.engine.sources import load

__all__ = ["Embedded", "Engine", "Fault", "Guess", "load"]
