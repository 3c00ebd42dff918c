"""Artifact in, smaller artifact out, by a chain of steps, each with its price."""
