"""What the server that workers are forked from imports: torch and transformers, and nothing that is optional.

transformers imports some libraries as soon as it finds them. One that touches CUDA there (torchao asks what the GPU can
do) leaves a server whose children cannot use a GPU at all, and no technique here needs any of them.

What is imported is no garbage: the collector does not look at those 400,000 objects, neither now nor in the workers,
where that would fall into somebody's headline, and copy the memory that they share.
"""

import atexit
import gc
import shutil
import sys
from multiprocessing import forkserver
from pathlib import Path

OPTIONAL = ("torchao", "deepspeed", "flash_attn", "flash_attn_interface", "hqq", "kernels", "torchaudio", "torchvision")

_hidden = [name for name in OPTIONAL if name not in sys.modules]
sys.modules.update(dict.fromkeys(_hidden))  # type: ignore[arg-type]  # None: Python says that there is no such module
gc.disable()
try:
    import udaciheadline.engines.transformers  # noqa: F401
finally:
    gc.freeze()
    gc.enable()
    for name in _hidden:
        del sys.modules[name]


@atexit.register
def _remove_socket() -> None:
    """Removes the folder with the socket of this server, which outlives a session that is killed."""
    if address := forkserver._forkserver._forkserver_address:  # type: ignore[attr-defined]
        shutil.rmtree(Path(address).parent, ignore_errors=True)
