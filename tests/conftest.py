from collections.abc import Iterator

import pytest
from hypothesis import configuration, settings


def pytest_configure(config: pytest.Config) -> None:
    """Hypothesis tries the same examples on every run, without time limits, and leaves nothing in the checkout."""
    configuration.set_hypothesis_home_dir(config.cache.mkdir("hypothesis"))  # type: ignore[union-attr]
    settings.register_profile("tests", database=None, derandomize=True, deadline=None)
    settings.load_profile("tests")


@pytest.fixture(scope="session")
def huggingface_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Datasets are cached in a temporary folder, and the hub is off line, as with HF_HUB_OFFLINE=1."""
    import datasets
    import huggingface_hub

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
        patch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
        patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        yield
