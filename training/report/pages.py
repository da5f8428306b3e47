"""HTML pages from the templates beside this file; whatever is put into them is escaped."""

from jinja2 import Environment, PackageLoader, StrictUndefined


def render_page(template: str, /, **content: object) -> str:
    """Render a template by its file name."""
    environment = Environment(
        loader=PackageLoader("training.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(template).render(content)
