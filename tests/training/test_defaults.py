"""The default settings of a run are the same in fine_tune, the trainer's arguments and the command line."""

import argparse
import inspect

import pytest

from simpair.cli import train
from simpair.training import TwinTowerTrainingArguments, fine_tune
from simpair.training.defaults import automatic_loss

NAMES = {
    "loss": "loss",
    "epochs": "num_train_epochs",
    "max_steps": "max_steps",
    "batch_size": "per_device_train_batch_size",
    "mini_batch_size": "mini_batch_size",
    "learning_rate": "learning_rate",
    "bf16": "bf16",
    "seed": "seed",
}


def test_three_doors_have_the_same_defaults(tmp_path):
    in_python = {name: value.default for name, value in inspect.signature(fine_tune).parameters.items()}
    in_arguments = TwinTowerTrainingArguments(output_dir=str(tmp_path))
    parser = argparse.ArgumentParser()
    train.register(parser.add_subparsers())
    in_command = vars(parser.parse_args(["train", "pairs.csv", "--out", str(tmp_path)]))
    for name, argument in NAMES.items():
        assert in_python[name] == getattr(in_arguments, argument) == in_command[name], name


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0), (9, 0), (10, 1), (39, 3), (1_000, 100)])
def test_a_tenth_of_the_steps_warms_up_rounded_down(tmp_path, steps, warmup):
    assert TwinTowerTrainingArguments(output_dir=str(tmp_path)).get_warmup_steps(steps) == warmup
    assert TwinTowerTrainingArguments(output_dir=str(tmp_path), warmup_steps=5).get_warmup_steps(steps) == 5


def test_auto_is_cosent_with_labels_and_info_nce_without():
    assert automatic_loss(has_labels=True) == "cosent"
    assert automatic_loss(has_labels=False) == "info_nce"
