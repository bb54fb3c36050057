"""Memory and load of the GPU, told from a thread of its own: no long step can delay it."""

import logging
import threading
import time
from collections.abc import Callable

import torch

from app.ipc.messages import DeviceUse

EVERY_SECONDS = 5.0

logger = logging.getLogger(__name__)


def watch(device: str, send: Callable[[DeviceUse], None]) -> None:
    """Send the use of a CUDA device every few seconds until the process ends."""
    if torch.device(device).type == "cuda":
        watcher = Watcher(torch.device(device), send)
        threading.Thread(target=watcher.run, name="device", daemon=True).start()


class Watcher:
    """Reads a CUDA device's use and sends it."""

    def __init__(self, device: torch.device, send: Callable[[DeviceUse], None]) -> None:
        self._device = device
        self._send = send
        self._nvml = True

    def run(self) -> None:
        """Read and send every few seconds, for ever."""
        while True:
            try:
                self._send(self.read())
            except Exception as error:  # the main thread will meet the device's trouble itself
                logger.debug("The device's use could not be read: %s", error)
            time.sleep(EVERY_SECONDS)

    def read(self) -> DeviceUse:
        """The device's use now."""
        free, total = torch.cuda.mem_get_info(self._device)
        return DeviceUse(
            used=torch.cuda.memory_allocated(self._device),
            reserved=torch.cuda.memory_reserved(self._device),
            occupied=total - free,
            total=total,
            busy=self._busy(),
        )

    def _busy(self) -> float | None:
        """Asked until NVML has once not answered: the library may be missing, or not allowed."""
        if not self._nvml:
            return None
        try:
            return torch.cuda.utilization(self._device) / 100
        except Exception as error:
            logger.info("How busy the device is stays unknown: %s", error)
            self._nvml = False
            return None
