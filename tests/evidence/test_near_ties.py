"""In bfloat16 correct programs part where two tokens are nearly tied. The parity gate forgives that, and still finds
the faults that a decode loop can have. (On real models more of them: docs/evidence.md.)"""

import pytest
from planted_faults import FAULTS, Judge


@pytest.fixture(scope="module")
def judge(main_checkpoint, tokenizer, news):
    return Judge(main_checkpoint, tokenizer, news)


@pytest.mark.parametrize(
    "fault",
    [
        "rotation off by two positions",  # one is seen on models that are less sure
        "two rows of the cache swapped",
        "last layer left out",
        "one rank's sum missing",
    ],
)
def test_a_planted_fault_fails_parity_in_bfloat16(judge, fault):
    assert judge(FAULTS[fault])[1].status == "fail"


def test_the_reference_as_a_job_passes_it(judge):
    assert judge(None)[1].status == "pass"
