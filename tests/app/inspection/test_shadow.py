import asyncio
from dataclasses import replace

import pytest

from app.inference.status import ProductStatus, Shadow
from app.inspection.inspector import AdmissionLimits, Inspector
from app.inspection.shadow import ShadowRunner, is_turn


def make_status(serving, candidate, *, share=1.0):
    return ProductStatus(
        "disc", serving=serving, activated=serving.name, shadow=Shadow(candidate.name, share, candidate)
    )


def run_shadow(images, standing, *, limit=64):
    """Judge these images with a candidate beside; its tally."""

    async def run():
        with Inspector(max_pixels=10**6, num_decoders=2, limits=AdmissionLimits(max_in_flight=limit)) as inspector:
            shadows = ShadowRunner(inspector)
            for data in images:
                inspection = await inspector.inspect(data, standing.serving)
                shadows.offer(data, inspection, standing)
                await asyncio.gather(*shadows._running)
            return shadows.get_stats(standing)

    return asyncio.run(run())


@pytest.fixture
def strict(tiny_version):
    """A candidate that finds every part ng."""
    promise = tiny_version.manifest.promise.model_copy(update={"threshold": -100.0})
    return replace(tiny_version, name="strict", chosen=promise)


def test_a_candidate_that_agrees_is_counted(tiny_version, good_bytes, defective_bytes):
    tally = run_shadow([good_bytes, defective_bytes] * 2, make_status(tiny_version, replace(tiny_version, name="twin")))
    assert (tally.seen, tally.judged, tally.disagreement_rate) == (4, 4, 0.0)


def test_what_it_says_otherwise_is_counted_by_who_says_ng(tiny_version, strict, good_bytes, defective_bytes):
    images = [good_bytes, good_bytes, good_bytes, defective_bytes]
    tally = run_shadow(images, make_status(tiny_version, strict))
    assert (tally.ng_by_candidate_only, tally.ng_by_serving_only, tally.disagreement_rate) == (3, 0, 0.75)
    tally = run_shadow(images, make_status(strict, tiny_version))
    assert (tally.ng_by_candidate_only, tally.ng_by_serving_only) == (0, 3)


def test_a_share_is_spread_evenly():
    assert [is_turn(number, 0.25) for number in range(1, 9)] == [False, False, False, True] * 2
    assert all(is_turn(number, 1.0) for number in range(1, 9))
    assert sum(is_turn(number, 0.1) for number in range(1, 1001)) == 100


def test_live_images_that_wait_come_first(tiny_version, good_bytes):
    async def run():
        with Inspector(max_pixels=10**6, num_decoders=2, limits=AdmissionLimits(max_in_flight=2)) as inspector:
            shadows = ShadowRunner(inspector)
            standing = make_status(tiny_version, replace(tiny_version, name="twin"))
            inspection = await inspector.inspect(good_bytes, tiny_version)
            busy = asyncio.ensure_future(inspector.inspect(good_bytes, tiny_version))
            await asyncio.sleep(0)
            shadows.offer(good_bytes, inspection, standing)
            await busy
            return shadows.get_stats(standing)

    tally = asyncio.run(run())
    assert (tally.seen, tally.judged, tally.skipped) == (1, 0, 1)


def test_a_candidate_that_fails_is_counted_and_affects_no_request(tiny_version, good_bytes):
    class Broken:
        def run(self, _):
            from app.errors import ModelError

            raise ModelError("compare.onnx returned a score that is not finite")

    tally = run_shadow([good_bytes], make_status(tiny_version, replace(tiny_version, name="nan", detector=Broken())))
    assert (tally.failed, tally.judged, tally.disagreement_rate) == (1, 0, None)


def test_another_pair_has_new_statistics(tiny_version, strict):
    shadows = ShadowRunner(inspector=None)
    standing = make_status(tiny_version, strict)
    shadows.get_stats(standing).seen = 5
    assert shadows.get_stats(standing).seen == 5
    assert shadows.get_stats(make_status(strict, tiny_version)).seen == 0
    assert shadows.get_stats(ProductStatus("disc", serving=tiny_version)) is None
