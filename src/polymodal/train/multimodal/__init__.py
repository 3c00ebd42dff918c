"""Training of models with several inputs: pre-training by several objectives, and the targets of a table."""

from polymodal.train.multimodal.job import MultimodalJob
from polymodal.train.multimodal.prepare import MultimodalPrepared, prepare_multimodal
from polymodal.train.multimodal.recipe import MultimodalRecipe, read_recipe

__all__ = ["MultimodalJob", "MultimodalPrepared", "MultimodalRecipe", "prepare_multimodal", "read_recipe"]
