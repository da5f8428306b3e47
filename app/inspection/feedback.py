"""Labelling of images, for command line and service."""

from app.imaging.decode import decode, load_upright, open_image
from app.store.errors import UnknownProduct
from app.store.labels import LabelDecision, LabelledImage, LabelStore
from app.store.state import State
from app.store.store import Store

SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "MPO": ".jpg", "BMP": ".bmp", "TIFF": ".tif", "WEBP": ".webp"}


def label_image(
    store: Store, state: State, product: str, data: bytes, *, decision: LabelDecision, max_pixels: int
) -> LabelledImage:
    """Store an image under its label. Raises UnknownProduct, StoreError, and ImageError where it can't be inspected."""
    if product not in store.list_products():
        raise UnknownProduct(product)
    picture = open_image(data, max_pixels=max_pixels)
    suffix = SUFFIXES[str(picture.format)]
    current = state.read_current(product)
    if current is None:
        load_upright(picture)
    else:
        decode(data, store.load_manifest(product, current.version).input, max_pixels=max_pixels)
    return LabelStore(state).add(product, data, suffix=suffix, decision=decision)
