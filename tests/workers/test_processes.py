"""Where the sockets of workers are. What a session does with workers is seen in test_compare.py."""

import tempfile
from multiprocessing import util
from pathlib import Path

import pytest

from udaciheadline.workers import processes


def test_a_temporary_folder_of_the_longest_length_holds_the_sockets() -> None:
    assert processes.LONGEST_FOLDER + len("/pymp-12345678/listener-12345678") < 104


def test_a_long_temporary_folder_gets_its_sockets_a_short_one_and_stays_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = str(tmp_path / "y".ljust(processes.LONGEST_FOLDER, "y"))
    monkeypatch.setattr(tempfile, "tempdir", long)
    found = []
    monkeypatch.setattr(util, "get_temp_dir", lambda: found.append(tempfile.gettempdir()))
    processes._find_place_for_socket()
    assert found == [processes.SHORT_FOLDERS[0]]
    assert tempfile.gettempdir() == long
