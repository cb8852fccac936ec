"""What this machine is called in latency tables."""

import os
import platform
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Device:
    """A machine that measures: slug for file names, processor, operating system, and the threads it has to give."""

    device: str
    soc: str
    os: str
    threads: int


def this_device() -> Device:
    """Describe this machine. Its slug is ``cpu``: whose it is, the ``soc`` says."""
    return Device(device="cpu", soc=_soc(Path("/proc/cpuinfo")), os=_os(), threads=os.cpu_count() or 1)


def _soc(cpuinfo: Path) -> str:
    try:
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("model name", "Model", "Hardware") and value.strip():
                return value.strip()
    except OSError:
        pass  # only Linux has it
    return platform.processor() or platform.machine() or "unknown"


def _os() -> str:
    if platform.system() == "Darwin":
        name = f"macOS {platform.mac_ver()[0]}"
    else:
        try:
            name = platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
        except OSError:
            name = f"{platform.system()} {platform.release()}"
    return f"{name} ({platform.machine()})"
