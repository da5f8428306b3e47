"""What torchvision lacks beside a torch without CUDA."""

import torch

OPERATORS = ("nms", "qnms", "roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool", "deform_conv2d", "qroi_align")
WITH_BACKWARD = OPERATORS[2:7]
declared: list[torch.library.Library] = []


def declare_operators() -> None:
    """Let torchvision be imported: its wheel is built for CUDA, and its own operators do not load without.

    They are declared, not defined; nothing that is measured calls one. Comes before the first import of torchvision.
    """
    if torch.version.cuda is not None:
        return
    library = torch.library.Library("torchvision", "DEF")
    for name in (*OPERATORS, *(f"_{one}_backward" for one in WITH_BACKWARD)):
        library.define(f"{name}(Tensor a) -> Tensor")
    declared.append(library)  # what was declared goes when its library does
