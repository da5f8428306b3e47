"""A peer in ONNX Runtime, as one process of the speed bench."""

import onnxruntime as ort

from peers.timing import Floats, Judge, Pixels, Turn, main, planes


def open_runner(turn: Turn) -> Judge:
    """Open the exported graph; every other option is ONNX Runtime's own choice."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = turn.threads
    session = ort.InferenceSession(turn.file("*.onnx"), options, providers=["CPUExecutionProvider"])

    def judge(pixels: Pixels) -> tuple[Floats, Floats]:
        maps, scores = session.run(["anomaly_map", "pred_score"], {"input": planes(pixels)})
        return maps[:, 0], scores.reshape(-1)

    return judge


if __name__ == "__main__":
    main(open_runner)
