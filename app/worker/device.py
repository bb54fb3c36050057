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
        threading.Thread(target=_tell, args=(device, send), name="device", daemon=True).start()


def _tell(device: str, send: Callable[[DeviceUse], None]) -> None:
    while True:
        try:
            send(device_use(device))
        except Exception as error:  # the main thread will meet the device's trouble itself
            logger.debug("The device's use could not be read: %s", error)
        time.sleep(EVERY_SECONDS)


def device_use(device: str) -> DeviceUse:
    """The use of a CUDA device now."""
    free, total = torch.cuda.mem_get_info(device)
    try:
        busy = torch.cuda.utilization(device) / 100
    except Exception as error:  # NVML may be missing, or not allowed
        logger.debug("How busy the device is stays unknown: %s", error)
        busy = None
    return DeviceUse(
        used=torch.cuda.memory_allocated(device),
        reserved=torch.cuda.memory_reserved(device),
        occupied=total - free,
        total=total,
        busy=busy,
    )
