"""A signal to end → a checkpoint, then the end of the run."""

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
    """Finishes the current step, saves a checkpoint and ends the run at a signal; a second signal ends it immediately.

    A context manager around the run, for the main thread. Ctrl-C then raises ``KeyboardInterrupt`` from the run;
    SIGTERM and SIGHUP raise ``SystemExit`` with the usual exit codes, 143 and 129. It works for one process: several
    would have to agree on the step. Before the first step and after the last one, signals have their usual effect;
    ignored signals stay ignored.

    Example:
        >>> with SaveAtSignal() as at_signal:
        ...     fine_tune(encoder, "pairs.csv", output_dir="run", callbacks=[at_signal])
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
        """Install the signal handlers."""
        self._restore()
        self._received = None
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._receive)

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Restore the signal handlers; a signal since the last step still ends the program."""
        self._restore()
        self._end()

    def on_step_end(self, args: Any, state: Any, control: TrainerControl, **_: Any) -> TrainerControl:
        """Ask for a checkpoint if a signal was received."""
        if self._received is not None:
            control.should_save = control.should_training_stop = True
        return control

    def on_save(self, args: Any, state: Any, *_: Any, **__: Any) -> None:
        """End the run if a signal was received; the checkpoint is complete now."""
        if self._received is not None:
            name = signal.Signals(self._received).name
            _log.warning("ended by %s with a checkpoint of step %d; resume continues from it", name, state.global_step)
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
