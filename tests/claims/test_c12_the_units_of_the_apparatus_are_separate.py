from app.imaging import decode
from app.inference import detector
from app.inspection import pipeline


def test_each_unit_takes_what_the_one_before_it_gave(tiny_version, good_bytes):
    image = decode.decode(good_bytes, tiny_version.manifest.input, max_pixels=10**6)
    batch = detector.make_batch([image], map_size=tiny_version.manifest.map_size)
    first = tiny_version.detector.extract(batch)
    second = tiny_version.detector.reconstruct(first)
    (comparison,) = tiny_version.detector.compare_features(first, second, batch)
    taken = pipeline.PreprocessedImage(image, batch, warnings=())
    timings = pipeline.Timings(decode=0.0, queue=0.0, inference=0.0)
    inspection = pipeline.postprocess(
        taken, comparison, tiny_version, options=pipeline.InspectOptions(), timings=timings
    )
    whole = pipeline.inspect(good_bytes, tiny_version, max_pixels=10**6)
    assert inspection.verdict == whole.verdict
    assert inspection.score == whole.score
    assert {name[0] for name in first} == {"t"}
    assert {name[0] for name in second} == {"s"}
