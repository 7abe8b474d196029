"""Engines in processes of their own: started, called, timed out and killed; several ranks, on this host or on others.

Others use `worker` (one engine, seen from the session), `processes` (what it is made of on this host; ends and deaths
are seen there), `machine` (what figures depend on there), `power` (what headlines take from the wall), `nvml` (what
disturbs a row on its GPUs), `installation` (processes with other code), and `hosts`, `agent` and `torchrun`, for
several machines. `serving` is what runs inside, `preload` what is imported before.
"""

__all__ = ["agent", "hosts", "installation", "machine", "nvml", "power", "processes", "torchrun", "worker"]
