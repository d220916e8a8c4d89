"""A signal to end → a checkpoint, and then the end. Knows the trainer's callbacks and no model."""

from __future__ import annotations

import logging
import signal
from types import FrameType, TracebackType
from typing import Any

from transformers import TrainerCallback, TrainerControl

__all__ = ["SaveAtSignal"]

_log = logging.getLogger("simpair")
_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
"""Windows has no SIGHUP."""


class SaveAtSignal(TrainerCallback):
    """Lets a run that is told to stop finish its step, save a checkpoint, and stop; a second signal ends it at once.

    A context manager, for the main thread; the run is inside it. Ctrl-C comes out of the run as ``KeyboardInterrupt``,
    SIGTERM and SIGHUP as ``SystemExit`` with the status that a shell gives to what it ended, 143 and 129. For one
    process: several would have to agree on the step. Before the first step and after the last one, signals do what they
    do elsewhere, and those that are ignored stay so.
    """

    def __init__(self) -> None:
        self._received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> SaveAtSignal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """From now on, wait for the end of a step."""
        self._restore()
        self._received = None
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._receive)

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """There is nothing left to save; a signal that came since the last step ends the run all the same."""
        self._restore()
        self._end()

    def on_step_end(self, args: Any, state: Any, control: TrainerControl, **_: Any) -> TrainerControl:
        """Ask for a checkpoint where a signal came."""
        if self._received is not None:
            control.should_save = control.should_training_stop = True
        return control

    def on_save(self, args: Any, state: Any, *_: Any, **__: Any) -> None:
        """End the run, now that the checkpoint is whole."""
        if self._received is not None:
            _log.warning("ended by %s, with a checkpoint of step %d; resume goes on from there",
                         signal.Signals(self._received).name, state.global_step)  # fmt: skip
        self._end()

    def _end(self) -> None:
        if self._received == signal.SIGINT:
            raise KeyboardInterrupt
        if self._received is not None:
            raise SystemExit(128 + self._received)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._received = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
