"""What people say of a part, for command line and service alike: an image that could be judged, and its label."""

from app.imaging.decode import decode, loaded, opened
from app.store.errors import UnknownProduct
from app.store.labels import Confirmation, Confirmed, Feedback
from app.store.state import State
from app.store.store import Store

SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "MPO": ".jpg", "BMP": ".bmp", "TIFF": ".tif", "WEBP": ".webp"}


def confirm(
    store: Store, state: State, product: str, data: bytes, *, confirmation: Confirmation, max_pixels: int
) -> Confirmed:
    """Keep an image under its label. Raises UnknownProduct, ImageError where it could not be judged, StoreError."""
    if product not in store.products():
        raise UnknownProduct(product)
    picture = opened(data, max_pixels=max_pixels)
    suffix = SUFFIXES[str(picture.format)]
    current = state.current(product)
    if current is None:
        loaded(picture)
    else:
        decode(data, store.manifest(product, current.version).input, max_pixels=max_pixels)
    return Feedback(state).keep(product, data, suffix=suffix, confirmation=confirmation)
