"""Fine-tuning on Accelerate: any number of devices and machines, saved as it goes, resumed exactly.

A run's folder becomes the checkpoint; ``training/`` in it keeps the run: ``settings.json``, a log
with a line for each step, what the trackers write, and the newest state.
"""

import json
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, ProjectConfiguration
from diffusers.training_utils import EMAModel
from torch import Tensor
from torch.utils.data import DataLoader

from app.errors import GenerationFailed
from app.pipeline.checkpoint import Parts
from app.training.errors import CannotStart
from app.training.examples import Examples, Place, Share, View
from app.training.objective import Objective
from app.training.optimizer import new_optimizer
from app.training.recipe import Settings, check_same
from app.training.sieve import Sieve
from app.training.sources import Source

Report = Callable[[int, float], None]
"""Told the steps done and the last step's loss."""

Look = Callable[[Any, int], Mapping[str, Any]]
"""Given the UNet with averaged weights and the steps done: draws pictures, returns figures."""

_BINS = 10
_SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED)


@dataclass(frozen=True, slots=True)
class Data:
    """What is trained on, and how it is loaded."""

    source: Source
    sieve: Sieve
    view: View
    workers: int = 0


class _Progress:
    """The steps done and the place in the data, in the form that Accelerate saves."""

    def __init__(self) -> None:
        self.step = 0
        self.place = Place()

    def state_dict(self) -> dict[str, int]:
        return {"step": self.step, **self.place._asdict()}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        self.step, self.place = state["step"], Place(state["epoch"], state["taken"])


class FineTuning:
    """One run in the folder ``out``, in each of its processes."""

    def __init__(
        self,
        parts: Parts,
        data: Data,
        settings: Settings,
        out: Path,
        *,
        cpu: bool = False,
        tracker: str | None = None,
    ) -> None:
        """Raises :class:`CannotStart` where the settings and the devices do not go together."""
        self.settings = settings
        self._parts, self._data = parts, data
        self._folder = out / "training"
        self.accelerator = Accelerator(
            cpu=cpu,
            mixed_precision=settings.mixed_precision,
            gradient_accumulation_steps=settings.accumulation,
            log_with=tracker,
            project_config=ProjectConfiguration(str(self._folder), str(self._folder / "logs")),
        )
        unet = parts.unet.float().requires_grad_(True).train()
        if settings.gradient_checkpointing:
            unet.enable_gradient_checkpointing()
        self._objective = Objective(parts, settings, self.accelerator.device)
        optimizer = new_optimizer(unet, settings)
        self._unet, self._optimizer = self.accelerator.prepare(unet, optimizer)
        self._ema = self._average()
        self._progress = _Progress()
        self.accelerator.register_for_checkpointing(self._progress)
        if self._ema:
            self.accelerator.register_for_checkpointing(self._ema)
        self._asked_to_stop = self._stopped = False

    @property
    def frozen(self) -> Parts:
        """The parts that are not trained, where and in what number type they are used."""
        return self._objective.frozen

    def begin(self, description: Mapping[str, object], resume: bool) -> None:
        """Go on from the newest state in the folder, or begin there.

        ``description`` names the start and the data; with the settings it must be what it was.
        Raises :class:`CannotStart` where there is a run and ``resume`` is not asked for.
        """
        path = self._folder / "settings.json"
        now = json.loads(json.dumps({**asdict(self.settings), **description}))
        now["examples_per_step"] = self._examples_per_step
        del now["batch_size"], now["accumulation"]  # may change as long as a step has as many
        if path.exists():
            if not resume:
                raise CannotStart(
                    f"{path.parent} holds a run: go on with --resume, or name a new folder (--out)"
                )
            check_same(json.loads(path.read_text()), now)
            self._load()
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            self._folder.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(now, indent=2) + "\n")
            self._cut_log()
        if self.accelerator.log_with:
            self.accelerator.init_trackers("variations")
        self.accelerator.wait_for_everyone()

    def train(
        self, report: Report, *, save_every: int, look: Look | None = None, look_every: int = 0
    ) -> bool:
        """Train until all steps are done; False where a signal stopped it. Saved either way."""
        settings, progress = self.settings, self._progress
        with self._stopping_by_signal():
            batches = iter(self._loader())
            while progress.step < settings.steps and not self._stopped:
                loss, bins, place = self._take_step(batches)
                progress.step += 1
                progress.place = place
                self._log(loss, bins)
                report(progress.step, loss)
                last = progress.step == settings.steps
                if last or self._stopped or progress.step % save_every == 0:
                    self._save()
                if look and look_every and (last or progress.step % look_every == 0):
                    self._look(look)
        return progress.step >= settings.steps

    @contextmanager
    def averaged(self) -> Iterator[Any]:
        """The plain UNet with its averaged weights, where there are such; then with its own."""
        unet = self.accelerator.unwrap_model(self._unet)
        if self._ema:
            self._ema.store(unet.parameters())
            self._ema.copy_to(unet.parameters())
        unet.eval()
        try:
            yield unet
        finally:
            unet.train()
            if self._ema:
                self._ema.restore(unet.parameters())

    def result(self) -> Parts:
        """The parts with the trained, averaged UNet, on the CPU in float32; this run is over."""
        weights = self.accelerator.get_state_dict(self._unet)
        unet = self.accelerator.unwrap_model(self._unet)
        if self._ema:
            self._ema.copy_to(unet.parameters())
            weights = unet.state_dict()
        with torch.device("meta"):
            trained = type(unet).from_config(unet.config)
        trained.load_state_dict({k: v.float().cpu() for k, v in weights.items()}, assign=True)
        for part in (self._parts.vae, self._parts.image_encoder):
            part.to("cpu")
        self.accelerator.end_training()
        return replace(self._parts, unet=trained.eval())

    @property
    def _examples_per_step(self) -> int:
        processes: int = self.accelerator.num_processes
        return self.settings.batch_size * self.settings.accumulation * processes

    def _average(self) -> EMAModel | None:
        if not self.settings.ema_decay:
            return None
        if self.accelerator.distributed_type in _SHARDED:
            raise CannotStart(
                "averaged weights are not kept where weights are sharded (FSDP, DeepSpeed): switch "
                "them off with --ema-decay 0"
            )
        return EMAModel(self._unet.parameters(), decay=self.settings.ema_decay, foreach=True)

    def _loader(self) -> DataLoader[Any]:
        batch = self.settings.batch_size
        examples = Examples(
            self._data.source,
            self._data.sieve,
            self._data.view,
            Share(batch, self.accelerator.process_index, self.accelerator.num_processes),
            self.settings.seed,
            self._progress.step * self._examples_per_step,
            self._progress.place,
        )
        workers = self._data.workers
        return DataLoader(
            examples,
            batch_size=batch,
            num_workers=workers,
            pin_memory=self.accelerator.device.type == "cuda",
            multiprocessing_context="spawn" if workers else None,
            worker_init_fn=_leave_interrupts,
            generator=torch.Generator().manual_seed(0),
        )

    def _take_step(self, batches: Iterator[Any]) -> tuple[float, Tensor, Place]:
        """One optimizer step: the mean loss, each example's ``[N, 3]`` of loss, timestep and
        weight, and the place in the data after it."""
        for group, rate in zip(
            self._optimizer.param_groups, self.settings.rates(self._progress.step), strict=True
        ):
            group["lr"] = rate
        seen = []
        for _ in range(self.settings.accumulation):
            batch = next(batches)
            with self.accelerator.accumulate(self._unet):
                losses, timesteps = self._objective(self._unet, batch)
                weights = batch["weight"].float().to(losses.device)
                self.accelerator.backward((losses * weights).mean())
                if self.accelerator.sync_gradients:
                    self.accelerator.clip_grad_norm_(
                        self._unet.parameters(), self.settings.most_norm
                    )
                self._optimizer.step()
                self._optimizer.zero_grad()
            seen.append(self._told(losses.detach(), timesteps, weights, batch["place"]))
        if self._ema:
            self._ema.step(self._unet.parameters())
        everywhere = self.accelerator.gather(torch.cat(seen)).cpu()
        self._stopped = bool(everywhere[:, 5].any())
        place = Place(
            *max((int(epoch), int(taken)) for epoch, taken in everywhere[:, 3:5].tolist())
        )
        loss = (everywhere[:, 0] * everywhere[:, 2]).mean().item()
        if not torch.isfinite(everywhere[:, 0]).all():
            raise GenerationFailed(
                f"the loss of step {self._progress.step + 1} is not finite: go on from the last "
                "state with a lower learning rate, or in bf16 or fp32 instead of fp16"
            )
        return loss, everywhere[:, :3], place

    def _told(self, losses: Tensor, timesteps: Tensor, weights: Tensor, places: Tensor) -> Tensor:
        """What all processes tell each other of a batch, ``float64 [B, 6]``: in one message."""
        stop = torch.full_like(losses, float(self._asked_to_stop))
        columns = (losses, timesteps, weights, *places.to(losses.device).unbind(1), stop)
        dtype = torch.float32 if losses.device.type == "mps" else torch.float64
        return torch.stack([column.to(dtype) for column in columns], dim=1)

    def _log(self, loss: float, examples: Tensor) -> None:
        """A line in the log, and the loss of each tenth of the timesteps for the trackers."""
        if not self.accelerator.is_main_process:
            return
        step, rates = self._progress.step, self.settings.rates(self._progress.step - 1)
        unreadable = int((examples[:, 2] == 0).sum())
        line = {"step": step, "loss": loss, "learning_rate": rates[0], "unreadable": unreadable}
        with (self._folder / "log.jsonl").open("a") as log:
            log.write(json.dumps(line) + "\n")
        if self.accelerator.log_with:
            width = self._parts.scheduler_config.get("num_train_timesteps", 1000) / _BINS
            values = {"loss": loss, "learning_rate": rates[0], "unreadable": unreadable}
            for i in range(_BINS):
                within = (examples[:, 1] / width).long() == i
                if within.any():
                    name = f"loss_by_timestep/{int(i * width)}"
                    values[name] = examples[within, 0].mean().item()
            self.accelerator.log(values, step=step)

    def _look(self, look: Look) -> None:
        if self.accelerator.is_main_process:
            with self.averaged() as unet:
                values = look(unet, self._progress.step)
            if self.accelerator.log_with:
                self.accelerator.log(dict(values), step=self._progress.step)
        self.accelerator.wait_for_everyone()

    def _save(self) -> None:
        """Write the state beside the last one, then remove that."""
        half, whole = self._folder / "state.half", self._folder / f"state-{self._progress.step:08}"
        main = self.accelerator.is_main_process
        if main:
            shutil.rmtree(half, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self.accelerator.save_state(str(half))
        self.accelerator.wait_for_everyone()
        if main:
            shutil.rmtree(whole, ignore_errors=True)
            half.rename(whole)
            for old in self._states()[:-1]:
                shutil.rmtree(old)

    def _load(self) -> None:
        if states := self._states():
            self.accelerator.load_state(str(states[-1]))
            if self._ema:
                self._ema.to(self.accelerator.device)

    def _states(self) -> list[Path]:
        return sorted(self._folder.glob("state-????????"))

    def _cut_log(self) -> None:
        """Forget the steps that were done after the state that this run goes on from."""
        log = self._folder / "log.jsonl"
        if log.exists():
            lines = log.read_text().splitlines()[: self._progress.step]
            log.write_text("".join(f"{line}\n" for line in lines))

    @contextmanager
    def _stopping_by_signal(self) -> Iterator[None]:
        """SIGINT and SIGTERM let the step be finished and saved; a second one ends it at once.

        All processes stop after the same step: whoever is asked tells the others with its losses.
        """
        before: dict[int, Any] = {}

        def stop(number: int, _frame: object) -> None:
            self._asked_to_stop = True
            signal.signal(number, before[number])

        for asking in (signal.SIGINT, signal.SIGTERM):
            before[asking] = signal.signal(asking, stop)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _leave_interrupts(_worker: int) -> None:
    """Ctrl-C reaches all processes of a terminal; the loaders are needed until the step is done."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
