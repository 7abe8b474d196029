"""What the rows of a session are thought to take, for the time that is left."""

import pytest

from udaciheadline.records import EngineSpec
from udaciheadline.session.session import size
from udaciheadline.techniques import techniques

SPEC = EngineSpec("main", "target", "main", "cpu", "float32")


@pytest.mark.parametrize(
    ("longer", "shorter"),
    [
        ("kv-cache", "compiled"),
        ("compiled", "compiled-batch"),
        ("tensor-parallel", "kv-cache"),
        ("pipeline-parallel", "compiled"),
        ("target", "kv-cache"),
        ("compiled-target", "compiled"),
    ],
)
def test_generate_several_ranks_and_a_larger_model_take_longer_and_a_job_alone_less(longer: str, shorter: str) -> None:
    assert size(techniques()[longer], SPEC) > size(techniques()[shorter], SPEC)
