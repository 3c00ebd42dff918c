"""A contact sheet of pictures and captions, with or without augmentation."""

import numpy as np
from PIL import Image

from polymodal.data.augment import Augment, augment_image, augment_text, canvas, choose_caption, decoded_side
from polymodal.data.contact_sheet import TILE, Sheet, Tile, draw_tiles
from polymodal.data.decode import open_image, read_pixels
from polymodal.data.manifest import Manifest
from polymodal.errors import DataError
from polymodal.preprocess import ImagePreprocess


def sheet(
    manifest: Manifest,
    *,
    rows: int = 24,
    seed: int = 0,
    augment: Augment | None = None,
    preprocess: ImagePreprocess | None = None,
    columns: int = 6,
) -> Sheet:
    """Rows drawn at random without repetition, in their order.

    Without `augment` every tile is a row: picture, number of the row, caption. With it every line is a row: the
    picture as in use, then what `columns - 1` epochs of training see of it.

    Args:
        preprocess: of the model; without it pictures are shown whole.
        seed: of the choice of rows, and of augmentation.

    Raises:
        DataError: the manifest has no pictures.
    """
    if manifest.image is None:
        raise DataError(f"{manifest.source}: no column holds pictures; name it by image")
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.choice(len(manifest), min(rows, len(manifest)), replace=False)).tolist()
    tiles: list[Tile] = []
    for row in chosen:
        if augment is None:
            tiles.append(_plain(manifest, row, preprocess))
        else:
            tiles += _augmented(manifest, row, preprocess or ImagePreprocess(size=TILE), augment, seed, columns - 1)
    return draw_tiles(tiles, min(columns, len(tiles)))


def _plain(manifest: Manifest, row: int, preprocess: ImagePreprocess | None) -> Tile:
    head, caption = f"row {manifest.row_number(row)}", " / ".join(manifest.captions(row))
    reference = manifest.image_reference(row)
    try:
        if preprocess is None:
            return Tile(open_image(reference, manifest.root), head, caption)
        pixels = read_pixels(reference, manifest.root, preprocess)
    except DataError as error:
        return Tile(None, head, caption, str(error))
    return Tile(Image.fromarray(pixels.transpose(1, 2, 0)), head, caption)


def _augmented(
    manifest: Manifest, row: int, preprocess: ImagePreprocess, augment: Augment, seed: int, epochs: int
) -> list[Tile]:
    number, captions = manifest.row_number(row), manifest.captions(row)
    tiles = [_plain(manifest, row, preprocess)]
    if tiles[0].picture is None:
        return tiles + [Tile(None, "", "")] * epochs
    side = decoded_side(preprocess, augment.image)
    kept = canvas(open_image(manifest.image_reference(row), manifest.root, side), preprocess, augment.image)
    for epoch in range(epochs):
        rng = np.random.default_rng((seed, epoch, number))  # as in `dataset.PairDataset`
        caption = ""
        if captions:
            caption = augment_text(choose_caption(captions, augment.text, rng), augment.text, rng)
        picture = augment_image(kept, captions, preprocess, augment.image, rng)
        tiles.append(Tile(picture, f"epoch {epoch}", caption))
    return tiles
