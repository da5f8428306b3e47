"""A plan: which products to train, each from which images and with which settings, as a YAML file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from model.bundle import NAME_PATTERN
from training.errors import BadSettings
from training.settings import TrainSettings, read_yaml, settings_of

ProductName = Annotated[str, StringConstraints(pattern=f"^{NAME_PATTERN}$")]


class Entry(BaseModel):
    """One product. ``data``: from the plan's folder on; ``settings`` go before those of the whole plan.

    ``num_cpus`` and ``num_gpus``: what a Ray cluster sets aside for it; a fraction shares a GPU.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: Path
    settings: dict[str, Any] = Field(default_factory=dict)
    skip_bad: bool = False
    num_cpus: float = Field(default=1, gt=0)
    num_gpus: float = Field(default=0, ge=0)


class Plan(BaseModel):
    """``retries``: how often a product is begun again whose worker or machine is lost, on a Ray cluster."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    store: str
    state: str | None = None
    settings: dict[str, Any] = Field(default_factory=dict)
    activates: bool = True
    retries: int = Field(default=3, ge=0)
    products: dict[ProductName, Entry] = Field(min_length=1)

    def settings_of(self, product: str) -> TrainSettings:
        """A product's settings. Raises BadSettings."""
        try:
            return settings_of(merged(self.settings, self.products[product].settings))
        except BadSettings as error:
            raise BadSettings(f"{product}: {error}") from None


def read_plan(path: Path) -> Plan:
    """The plan in a file, with paths made whole and every product's settings looked at. Raises BadSettings."""
    folder = path.parent.absolute()
    try:
        plan = Plan.model_validate(read_yaml(path))
    except ValidationError as error:
        first = error.errors()[0]
        raise BadSettings(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    for product in plan.products:
        plan.settings_of(product)
    products = {
        product: entry.model_copy(update={"data": folder / entry.data}) for product, entry in plan.products.items()
    }
    places = {name: whole(place, folder) for name, place in (("store", plan.store), ("state", plan.state)) if place}
    return plan.model_copy(update={"products": products, **places})


def whole(place: str, folder: Path) -> str:
    """A place as it is called from anywhere: a path from ``folder`` on, or an address as it is."""
    return place if "://" in place else str(folder / place)


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Both, nested ones too; where both say something, what is above."""
    nested = {
        name: merged(below[name], value)
        for name, value in above.items()
        if isinstance(value, Mapping) and isinstance(below.get(name), Mapping)
    }
    return {**below, **above, **nested}
