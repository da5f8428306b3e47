"""A peer in torch, as one process of the speed bench."""

import os

import torch

from peers.operators import declare_operators
from peers.timing import Floats, Judge, Pixels, Turn, main, planes

declare_operators()
from anomalib.deploy import TorchInferencer  # noqa: E402  # needs the operators


def open_runner(turn: Turn) -> Judge:
    """Open the whole model from its pickle, by anomalib's own inferencer; this project wrote that pickle."""
    torch.set_num_threads(turn.threads)
    os.environ["TRUST_REMOTE_CODE"] = "1"
    model = TorchInferencer(turn.file("*.pt"), device="cpu").model

    @torch.inference_mode()
    def judge(pixels: Pixels) -> tuple[Floats, Floats]:
        answer = model(torch.from_numpy(planes(pixels)))
        return answer.anomaly_map[:, 0].numpy(), answer.pred_score.reshape(-1).numpy()

    return judge


if __name__ == "__main__":
    main(open_runner)
