"""A peer in OpenVINO, as one process of the speed bench."""

import openvino as ov

from peers.timing import Floats, Judge, Pixels, Turn, main, planes


def open_runner(turn: Turn) -> Judge:
    """Open the exported model, compiled for one request at a time.

    The code is cached, as anomalib's inferencer does.
    """
    core = ov.Core()
    core.set_property({"CACHE_DIR": str(turn.folder.parents[2] / "compiled")})
    settings = {"INFERENCE_NUM_THREADS": turn.threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
    model = core.compile_model(turn.file("*.xml"), "CPU", settings)

    def judge(pixels: Pixels) -> tuple[Floats, Floats]:
        answer = model(planes(pixels))
        return answer["anomaly_map"][:, 0], answer["pred_score"].reshape(-1)

    return judge


if __name__ == "__main__":
    main(open_runner)
