"""Named compositions of towers; `names` is the table of them, `published` reads and writes released checkpoints."""
