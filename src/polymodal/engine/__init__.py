"""A model loaded for use, without the training side."""

from polymodal.engine.engine import Embedded, Engine, Guess, ItemFault
from polymodal.engine.sources import load

__all__ = ["Embedded", "Engine", "Guess", "ItemFault", "load"]
