import asyncio
import io

import numpy as np
import pytest
from drawing import defective_part, encode, good_part
from PIL import Image

from app.errors import EngineError, ModelError
from app.imaging.decode import decode
from app.inference.detector import make_batch, valid_positions
from app.inference.sessions import Device, choose_device, open_session
from app.inspection import pipeline
from app.inspection.inspector import Inspector
from app.inspection.pipeline import InspectOptions, inspect
from model.bundle import GOLDEN, InputRecord

LIMIT = 10**6
GPU_ONLY = "cuda"


def test_the_golden_images_of_the_first_format_are_still_judged_as_when_it_was_made(tiny_version, store):
    """What format 1's first release answered is what every later one answers, to the manifest's tolerance."""
    files = store.load_bundle("disc", tiny_version.name).files
    with np.load(io.BytesIO(files[f"{GOLDEN}/expected.npz"])) as expected:
        scores, maps = expected["scores"], expected["maps"]
    names = sorted(name for name in files if name.startswith(GOLDEN) and not name.endswith(".npz"))
    tolerance = tiny_version.manifest.golden_tolerance["float32"]
    assert len(names) == len(scores) == 6
    for name, score, map_ in zip(names, scores, maps, strict=True):
        found = inspect(files[name], tiny_version, max_pixels=LIMIT)
        assert abs(found.score - score) < tolerance
        assert np.abs(found.map - map_).max() < tolerance


def test_a_good_part_is_ok_and_a_defective_one_ng(tiny_version, good_bytes, defective_bytes):
    good = inspect(good_bytes, tiny_version, max_pixels=LIMIT)
    bad = inspect(defective_bytes, tiny_version, max_pixels=LIMIT)
    assert (good.verdict, bad.verdict) == ("ok", "ng")
    assert bad.p_value < good.p_value


def test_the_regions_of_a_defect_lie_on_it(tiny_version):
    data = encode(defective_part(3, centre=(60, 30)))
    region = inspect(data, tiny_version, max_pixels=LIMIT).regions[0]
    assert region.x < 60 < region.x + region.width
    assert region.y < 30 < region.y + region.height


def test_a_rotated_jpeg_is_judged_upright_and_its_coordinates_are_upright(tiny_version):
    upright = defective_part(3, centre=(60, 30))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encode(upright.rotate(90, expand=True), "JPEG", quality=100, exif=exif)
    found = inspect(turned, tiny_version, max_pixels=LIMIT)
    plain = inspect(encode(upright), tiny_version, max_pixels=LIMIT)
    assert (found.image.width, found.image.height) == upright.size
    assert found.regions[0].x < 60 < found.regions[0].x + found.regions[0].width
    assert found.regions[0].y < 30 < found.regions[0].y + found.regions[0].height
    assert abs(found.score - plain.score) < 0.05 * plain.score


def test_shares_of_the_scales_sum_to_one(tiny_version, defective_bytes):
    scales = inspect(defective_bytes, tiny_version, max_pixels=LIMIT).scales
    assert [scale.stride for scale in scales] == [16, 8]
    assert abs(sum(scale.share for scale in scales) - 1) < 1e-6


def test_the_service_judges_as_the_command_line_does(tiny_version, defective_bytes):
    alone = inspect(defective_bytes, tiny_version, max_pixels=LIMIT)
    with Inspector(max_pixels=LIMIT, num_decoders=2) as served:
        found = asyncio.run(served.inspect(defective_bytes, tiny_version, InspectOptions()))
    assert found.score == alone.score
    assert np.array_equal(found.map, alone.map)


def test_many_at_once_get_their_own_answers(tiny_version):
    images = [encode(defective_part(seed) if seed % 3 else good_part(seed)) for seed in range(24)]

    async def all_at_once():
        with Inspector(max_pixels=LIMIT, num_decoders=2) as served:
            return await asyncio.gather(
                *(served.inspect(data, tiny_version, InspectOptions(heatmap="png")) for data in images)
            )

    for data, found in zip(images, asyncio.run(all_at_once()), strict=True):
        assert found.score == inspect(data, tiny_version, max_pixels=LIMIT).score


def test_padding_counts_nowhere(tiny_version):
    rule = InputRecord(height=64, width=64, fit="letterbox", channels="grey", white_level=255)
    image = decode(encode(good_part(0, size=(100, 50))), rule, max_pixels=LIMIT)
    valid = valid_positions(image, (16, 16))
    assert valid[:4].sum() == valid[12:].sum() == 0
    assert valid[4:12].all()
    (comparison,) = tiny_version.detector.run(make_batch([image], map_size=(16, 16)))
    assert (comparison.map[valid == 0] == 0).all()
    assert (comparison.scale_maps[:, valid == 0] == 0).all()


def test_a_map_position_outside_the_part_is_as_ordinary_as_can_be(tiny_version):
    raw = np.full((16, 16), 99, np.float32)
    standard = pipeline.standardise_map(raw, np.zeros((16, 16), np.float32), tiny_version)
    assert (standard == 0).all()


def test_a_graph_that_answers_nan_is_an_error_and_not_a_verdict(tiny_version, good_bytes):
    image = decode(good_bytes, tiny_version.manifest.input, max_pixels=LIMIT)
    batch = make_batch([image], map_size=tiny_version.manifest.map_size)
    seen = tiny_version.detector.extract(batch)
    reconstruction = tiny_version.detector.reconstruct(seen)
    seen["t1"][:] = np.nan
    with pytest.raises(ModelError, match="not finite"):
        tiny_version.detector.compare_features(seen, reconstruction, batch)


def test_bytes_that_are_no_graph_are_refused():
    with pytest.raises(ModelError, match=r"student\.onnx"):
        open_session(b"nonsense", what="student.onnx", device=Device("cpu", 1))


def test_a_graph_with_external_data_is_refused(tmp_path):
    import onnx

    weight = onnx.numpy_helper.from_array(np.zeros((4, 4), np.float32), "w")
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [4, 4])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [4, 4])],
        [weight],
    )
    path = tmp_path / "outside.onnx"
    onnx.save(onnx.helper.make_model(graph), path, save_as_external_data=True, location="w.bin", size_threshold=0)
    with pytest.raises(ModelError, match="stores weights outside its file"):
        open_session(path.read_bytes(), what="outside.onnx", device=Device("cpu", 1))


def test_asking_for_cuda_without_it_is_an_error_and_not_the_cpu():
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this machine has CUDA")
    with pytest.raises(ModelError, match=GPU_ONLY):
        choose_device("cuda", num_threads=1)
    assert choose_device("auto", num_threads=1).provider == "cpu"


def test_an_image_that_was_judged_is_forgotten_at_once(tiny_version, good_bytes):
    """Not only when the garbage collector comes, which may be many images later."""
    import gc
    import weakref

    class Noticed(bytearray):
        """Bytes whose end can be noticed."""

    async def inspect_once():
        data = Noticed(good_bytes)
        with Inspector(max_pixels=LIMIT, num_decoders=1) as inspector:
            await inspector.inspect(data, tiny_version)
            return weakref.ref(data)

    gc.disable()
    try:
        assert asyncio.run(inspect_once())() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("num_images", [1, 3])
def test_features_that_stay_on_the_device_give_the_same_judgement(
    tiny_version, good_bytes, defective_bytes, num_images
):
    """On the processor, which is a device too; ``test_gpu.py`` does the same on CUDA."""
    from app.inference.detector import Batch, DeviceDetector
    from app.inspection.pipeline import preprocess

    plain = tiny_version.detector
    bound = DeviceDetector(plain.teacher, plain.student, plain.compare, device="cpu")
    batches = [
        preprocess(data, tiny_version, max_pixels=LIMIT).batch for data in (good_bytes, defective_bytes, good_bytes)
    ]
    batch = Batch(
        *(np.concatenate([getattr(one, part) for one in batches[:num_images]]) for part in ("pixels", "valid"))
    )
    for found, expected in zip(bound.run(batch), plain.run(batch), strict=True):
        assert found.score == expected.score
        np.testing.assert_array_equal(found.map, expected.map)
        np.testing.assert_array_equal(found.scale_shares, expected.scale_shares)


def test_a_bound_graph_that_can_not_run_says_so(tiny_version):
    from app.errors import RunFailed
    from app.inference.detector import Batch, DeviceDetector

    plain = tiny_version.detector
    bound = DeviceDetector(plain.teacher, plain.student, plain.compare, device="cpu")
    with pytest.raises(RunFailed):
        bound.run(Batch(np.zeros((1, 3, 3, 3), np.uint8), np.ones((1, 2, 2), np.float32)))


def test_finished_results_are_returned_before_waiting_images_are_decoded(tiny_version, good_bytes, monkeypatch):
    """One decoder, held at its second image: the first one's answer comes all the same."""
    import threading

    from app.inspection import pipeline

    gate, real = threading.Event(), pipeline.decode
    seen = []

    def slow(data, rule, *, max_pixels):
        seen.append(data)
        if len(seen) > 1:
            assert gate.wait(10)
        return real(data, rule, max_pixels=max_pixels)

    monkeypatch.setattr(pipeline, "decode", slow)

    async def crowd():
        with Inspector(max_pixels=LIMIT, num_decoders=1) as served:
            tasks = [asyncio.ensure_future(served.inspect(good_bytes, tiny_version)) for _ in range(5)]
            first = await asyncio.wait_for(tasks[0], 5)
            held = sum(not task.done() for task in tasks)
            gate.set()
            await asyncio.gather(*tasks)
            return first.verdict, held

    assert asyncio.run(crowd()) == ("ok", 4)


def test_an_image_whose_deadline_has_passed_is_not_even_decoded(tiny_version):
    """Bytes that are no image: to decode them would be another error."""

    async def late():
        with Inspector(max_pixels=LIMIT, num_decoders=1) as inspector:
            await inspector.inspect(b"no image", tiny_version, deadline=0.0)

    with pytest.raises(EngineError, match="the deadline passed"):
        asyncio.run(late())
