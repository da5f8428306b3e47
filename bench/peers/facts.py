"""Tell as JSON what the environment of the peers has: versions, and in what OpenVINO computes by its own choice.

Where a processor multiplies bfloat16 matrices (AMX), OpenVINO takes that for a model in float32.
"""

import json
from importlib.metadata import version

import openvino as ov

PACKAGES = ("anomalib", "torch", "onnxruntime", "openvino", "nncf")


def main() -> None:
    """One line on standard output."""
    precision = ov.Core().get_property("CPU", "INFERENCE_PRECISION_HINT").get_type_name()
    print(json.dumps({**{name: version(name) for name in PACKAGES}, "openvino_computes_in": precision}))


if __name__ == "__main__":
    main()
