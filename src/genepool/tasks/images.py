"""Images that examples show: files beside a task's own, checked before they are opened and bounded in size.

`reading` finds them, image classifiers open them. Needs pillow (`pip install "genepool[images]"`).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genepool.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

# A photograph of a good camera has 24 million pixels, three bytes each once it is opened.
MAX_PIXELS = 50_000_000
MAX_BYTES = 64 * 1024**2
# Others of pillow's formats start programs, such as Ghostscript, or are not for pictures.
_FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
_FIX = f"Name one of {', '.join(_FORMATS)}"


@dataclass(frozen=True)
class ImageFile:
    """An image on the disk, known by its content.

    Attributes:
        path: the file.
        digest: SHA-256 of its bytes, hex.
    """

    path: Path
    digest: str


def find_image(name: Any, folder: Path, where: str) -> ImageFile:
    """The image that an example names.

    Args:
        name: its path, relative to the folder of the task's files.
        folder: that folder; the image must lie within it.
        where: the example, for errors.

    Raises:
        InputError: it is no text, leads outside the folder, or is no file, no image or an enormous one.
    """
    if not isinstance(name, str) or not name:
        raise InputError("`image` must be the path of a file", where=where, fix="Name it relative to this file")
    try:
        path = (folder / name).resolve()
        inside = path.is_relative_to(folder.resolve())
        found = inside and path.is_file()
    except (OSError, ValueError):
        inside, found = True, False
    if not inside:
        raise InputError(f"the image {name!r} lies outside the task's folder", where=where, fix=f"Put it into {folder}")
    if not found:
        raise InputError(f"there is no image {name!r}", where=where, fix=f"Put it into {folder}")
    if path.stat().st_size > MAX_BYTES:
        raise InputError(
            f"the image {name!r} has {path.stat().st_size:,} bytes, expected at most {MAX_BYTES:,}",
            where=where,
            fix="Make it smaller",
        )
    _opened(path, where).close()
    return ImageFile(path, hashlib.sha256(path.read_bytes()).hexdigest())


def open_image(path: str | Path) -> Image:
    """An image in memory, in RGB; of several in one file, the first.

    Raises:
        InputError: the file is no image, an enormous one, or a damaged one.
    """
    with _opened(Path(path), str(path)) as image:
        try:
            return image.convert("RGB")
        except (OSError, ValueError, SyntaxError) as error:
            raise InputError(f"the image is damaged ({error})", where=path, fix="Save it again") from None


def _opened(path: Path, where: str) -> Image:
    """The file with its header read, which says how large the image is."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise InputError(
            "pillow, which reads images, is not installed",
            where=where,
            fix='Install it: pip install "genepool[images]"',
        ) from None
    try:
        image = Image.open(path, formats=_FORMATS)
    except Image.DecompressionBombError:
        raise _too_large(path, where) from None
    except UnidentifiedImageError:
        raise InputError(f"{path.name} is not an image that can be opened", where=where, fix=_FIX) from None
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(f"{path.name} cannot be opened ({error})", where=where, fix=_FIX) from None
    if image.width * image.height > MAX_PIXELS:
        image.close()
        raise _too_large(path, where)
    return image


def _too_large(path: Path, where: str) -> InputError:
    return InputError(
        f"the image {path.name} is too large, expected at most {MAX_PIXELS:,} pixels",
        where=where,
        fix="Make it smaller",
    )
