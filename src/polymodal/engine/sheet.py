"""The answers to a question as one picture: rank, score, picture and text of each."""

from pathlib import Path

from polymodal.data.cache import written_beside
from polymodal.data.contact_sheet import Tile, draw_tiles
from polymodal.data.decode import open_image
from polymodal.data.manifest import Manifest
from polymodal.engine.search import Answers, Hit
from polymodal.errors import ConfigError, DataError

COLUMNS = 5


def draw_answers(manifest: Manifest, answers: Answers, title: str, out: Path) -> tuple[str, ...]:
    """Write the contact sheet of the answers, a PNG.

    Returns:
        What could not be drawn: characters that no font of this system has.

    Raises:
        ConfigError: the name does not end in .png.
        DataError: the file cannot be written.
    """
    check_name(out)
    tiles = [_tile(manifest, place, hit) for place, hit in enumerate(answers.hits, 1)]
    drawn = draw_tiles(tiles, COLUMNS, title)
    with written_beside(out) as fresh:
        drawn.image.save(fresh, "PNG")
    return drawn.notes


def check_name(out: Path) -> None:
    """
    Raises:
        ConfigError: the name does not end in .png.
    """
    if out.suffix.lower() != ".png":
        raise ConfigError(f"--sheet {out}: wanted a name that ends in .png")


def _tile(manifest: Manifest, rank: int, hit: Hit) -> Tile:
    head, caption = f"{rank}.  {hit.score:.3f}", " | ".join(hit.texts)
    if hit.image is None:
        return Tile(None, head, caption)
    try:
        return Tile(open_image(manifest.image_reference(hit.place), manifest.root), head, caption)
    except DataError as error:  # of a text that was found; the picture was not asked for
        return Tile(None, head, caption, str(error))
