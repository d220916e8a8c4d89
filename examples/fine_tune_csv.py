"""Fine-tune the bundled model on a CSV file, measure before and after, and save the result.

    python examples/fine_tune_csv.py train.csv dev.csv my-model

The files have columns such as ``text1,text2,label``. Without arguments it writes a small data set about kitchen
appliances and trains on that.
"""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from simpair import TwinTowerEncoder
from simpair.training import fine_tune

TRAIN = """text1,text2,label
error E1,The door is open.,1
error E1,The filter is blocked.,0
error E2,The filter is blocked.,1
error E2,The water is too hot.,0
error E3,The water is too hot.,1
error E3,The door is open.,0
"""
DEV = """text1,text2,label
What is E1?,The door is open.,1
What is E1?,The water is too hot.,0
What is E2?,The filter is blocked.,1
What is E2?,The door is open.,0
What is E3?,The water is too hot.,1
What is E3?,The filter is blocked.,0
"""


def train(data: Path, dev: Path, out: Path) -> None:
    """Train on ``data``, print the scores on ``dev``, and save the encoder in ``out``."""
    encoder = TwinTowerEncoder.from_pretrained()
    report = fine_tune(encoder, data, dev=dev, epochs=8, batch_size=16, learning_rate=2e-4)
    print(f"loss {report.loss_name}, {report.records} records, {report.steps} steps")
    print(f"Spearman {report.before.spearman:.2f} before, {report.after.spearman:.2f} after")
    encoder.save_pretrained(out)


def main(arguments: Sequence[str] = ()) -> None:
    """Train on the given files, or on the data above."""
    if len(arguments) == 3:
        train(*map(Path, arguments))
        return
    if arguments:
        sys.exit("usage: python examples/fine_tune_csv.py [TRAIN DEV OUT]")
    with tempfile.TemporaryDirectory() as scratch:
        data, dev = Path(scratch) / "train.csv", Path(scratch) / "dev.csv"
        data.write_text(TRAIN, encoding="utf-8")
        dev.write_text(DEV, encoding="utf-8")
        train(data, dev, Path(scratch) / "model")


if __name__ == "__main__":
    main(sys.argv[1:])
