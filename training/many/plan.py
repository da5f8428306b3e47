"""A plan: products to train, with their images and settings, as a YAML file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from app.errors import SettingsError
from app.validation import describe_error
from model.bundle import NAME_PATTERN
from training.settings import TrainSettings, parse_settings, read_yaml

ProductName = Annotated[str, StringConstraints(pattern=f"^{NAME_PATTERN}$")]


class PlanEntry(BaseModel):
    """One product. ``data``: relative to the plan's folder; ``settings`` override those of the plan.

    ``num_cpus`` and ``num_gpus``: resources on a Ray cluster; a fraction shares a GPU.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: Path
    settings: dict[str, Any] = Field(default_factory=dict)
    skip_bad: bool = False
    num_cpus: float = Field(default=1, gt=0)
    num_gpus: float = Field(default=0, ge=0)


class TrainingPlan(BaseModel):
    """``retries``: how often a product is restarted on a Ray cluster after its worker or node is lost."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    store: str
    state: str | None = None
    settings: dict[str, Any] = Field(default_factory=dict)
    activates: bool = True
    retries: int = Field(default=3, ge=0)
    products: dict[ProductName, PlanEntry] = Field(min_length=1)

    def get_settings(self, product: str) -> TrainSettings:
        """Return a product's settings. Raises SettingsError."""
        try:
            return parse_settings(merge_settings(self.settings, self.products[product].settings))
        except SettingsError as error:
            raise SettingsError(f"{product}: {error}") from None


def read_plan(path: Path) -> TrainingPlan:
    """Read a plan, with absolute paths and validated settings. Raises SettingsError."""
    folder = path.parent.absolute()
    try:
        plan = TrainingPlan.model_validate(read_yaml(path))
    except ValidationError as error:
        raise SettingsError(f"{path}: {describe_error(error)}") from None
    for product in plan.products:
        plan.get_settings(product)
    products = {
        product: entry.model_copy(update={"data": folder / entry.data}) for product, entry in plan.products.items()
    }
    places = {
        name: resolve_location(place, folder) for name, place in (("store", plan.store), ("state", plan.state)) if place
    }
    return plan.model_copy(update={"products": products, **places})


def resolve_location(place: str, folder: Path) -> str:
    """Return a path relative to ``folder`` as absolute; an address is unchanged."""
    return place if "://" in place else str(folder / place)


def merge_settings(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Merge nested settings; ``above`` overrides ``below``."""
    nested = {
        name: merge_settings(below[name], value)
        for name, value in above.items()
        if isinstance(value, Mapping) and isinstance(below.get(name), Mapping)
    }
    return {**below, **above, **nested}
