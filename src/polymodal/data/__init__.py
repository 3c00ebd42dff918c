"""The data room: tables of pictures and texts in, checked rows and batches out."""

from polymodal.data.columns import Column
from polymodal.data.faults import Fault, Faults
from polymodal.data.manifest import Manifest

__all__ = ["Column", "Fault", "Faults", "Manifest", "read"]

read = Manifest.read
