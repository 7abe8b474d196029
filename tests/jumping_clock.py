"""A time of day that is wrong by hours, back and forth, for whoever asks for it (`-p`, or where workers are forked)."""

import random
import time

_now = time.time
time.time = lambda: _now() + random.uniform(-1e5, 1e5)
time.time_ns = lambda: int(time.time() * 1e9)
