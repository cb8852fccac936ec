"""One thread a test process, and time limits left to the machine."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)
settings.register_profile("archsearch", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("archsearch")
