"""The features of ``transformers.Trainer`` work in ours; an option that would have no effect is refused by name."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cosine_similarity
from transformers import EarlyStoppingCallback, TrainerCallback, TrainingArguments

from simpair import TwinTowerEncoder
from simpair.errors import InputError
from simpair.training import PairCollator, ScoredPair, TwinTowerTrainer, TwinTowerTrainingArguments
from tests.encoder.towers.test_backward import stored_bytes
from tests.training.trainer.test_trainer import (
    ASKED,
    PAIRS,
    arguments,
    digest,
    distance,
    quiet,
    silence_dropout,
    weights,
)

__all__ = ["arguments", "quiet"]

MANY = [ScoredPair(f"the cat {n}", f"a dog {n % 7} runs", (n % 4) / 3) for n in range(32)]
CHECKPOINTING = "activation_checkpointing" if hasattr(TrainingArguments, "activation_checkpointing") else None
CHECKPOINTING = CHECKPOINTING or "gradient_checkpointing"
EVALUATED = {
    "eval_strategy": "steps",
    "eval_steps": 1,
    "save_strategy": "steps",
    "save_steps": 1,
    "load_best_model_at_end": True,
    "metric_for_best_model": "spearman",
}


class Diary(TrainerCallback):
    """Records the events, as reporters such as wandb do."""

    def __init__(self):
        self.events, self.logs = [], []

    def on_train_begin(self, args, state, control, model=None, **_):
        self.events.append(("begin", type(model).__name__, args.loss))

    def on_step_end(self, args, state, control, **_):
        self.events.append(("step", state.global_step))

    def on_evaluate(self, args, state, control, metrics=None, **_):
        self.events.append(("evaluate", state.global_step, "eval_spearman" in metrics))

    def on_log(self, args, state, control, logs=None, **_):
        self.logs.append((state.global_step, dict(logs)))


class Gradients(TrainerCallback):
    """Stores the gradients of the first step."""

    def on_pre_optimizer_step(self, args, state, control, model=None, **_):
        if state.global_step == 0:
            self.found = {name: value.grad.clone() for name, value in model.named_parameters()}


@pytest.fixture
def train(tiny_model, arguments):
    """``train(records, callbacks, **options)``: the trainer after a run from the tiny model."""

    def run(records=PAIRS, callbacks=None, *, resume=None, dropout=True, **options):
        encoder = TwinTowerEncoder.from_pretrained(tiny_model, device="cpu")
        if not dropout:
            silence_dropout(encoder)
        evaluated = PAIRS if options.get("eval_strategy") else None
        trainer = TwinTowerTrainer(
            encoder, arguments(**options), train_dataset=records, eval_dataset=evaluated, callbacks=callbacks
        )
        trainer.train(resume)
        return trainer

    return run


# --- evaluation, callbacks, checkpoints -------------------------------------------------------------------------------


def test_a_run_that_no_longer_improves_stops_early(train):
    """Nothing is learned at a learning rate of 0, so the second and third evaluation are no better."""
    trainer = train(callbacks=[EarlyStoppingCallback(2)], max_steps=9, learning_rate=0.0, **EVALUATED)
    assert trainer.state.global_step == 3
    assert trainer.state.best_global_step == 1


@pytest.mark.slow
def test_rotation_keeps_the_best_checkpoint_and_it_is_loaded(train, tmp_path):
    """The labels of the dev data are inverted, so training makes the scores worse."""
    train_on = [ScoredPair(text1, text2, 1 - label) for text1, text2, label in PAIRS]
    trainer = train(train_on, max_steps=12, learning_rate=1e-2, save_total_limit=2, **EVALUATED)
    steps = {entry["step"]: entry["eval_spearman"] for entry in trainer.state.log_history if "eval_spearman" in entry}
    best = max(steps, key=lambda step: steps[step])
    assert trainer.state.best_metric == steps[best]
    assert best < 12
    assert {path.name for path in (tmp_path / "run").iterdir()} == {f"checkpoint-{best}", "checkpoint-12"}
    kept = TwinTowerEncoder.from_pretrained(tmp_path / "run" / f"checkpoint-{best}")
    assert distance(weights(trainer.model), weights(kept)) == 0


def test_callbacks_and_reporters_get_their_events(train):
    diary = Diary()
    options = {"logging_strategy": "steps", "logging_steps": 1, "eval_strategy": "steps", "eval_steps": 2}
    train(callbacks=[diary], max_steps=2, eval_on_start=True, **options)
    assert diary.events == [
        ("begin", "TwinTowerEncoder", "cosine_mse"),
        *(("evaluate", 0, True), ("step", 1), ("step", 2), ("evaluate", 2, True)),
    ]
    logged = {step: logs for step, logs in diary.logs if "loss" in logs}
    assert sorted(logged) == [1, 2]
    assert {"loss", "grad_norm", "learning_rate", "epoch"} <= set(logged[1])


def test_tensorboard_gets_its_events(train, tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    train(max_steps=1, logging_strategy="steps", logging_steps=1, report_to=["tensorboard"])
    assert list((tmp_path / "events").rglob("events.out.tfevents.*"))


def test_evaluate_and_predict_take_other_data(train):
    trainer = train(max_steps=1)
    found = trainer.evaluate({"first": PAIRS[:6], "second": PAIRS[6:]})
    assert {"eval_first_loss", "eval_second_spearman"} <= set(found)
    assert "test_pearson" in trainer.predict(PAIRS, metric_key_prefix="test").metrics
    one, other = (torch.from_numpy(trainer.model.encode([pair[side] for pair in PAIRS])) for side in (0, 1))
    assert torch.allclose(
        torch.from_numpy(trainer.predict(PAIRS).predictions), cosine_similarity(one, other), atol=1e-6
    )


def test_the_metrics_cover_all_pairs_with_and_without_concatenation(train):
    one, other = (
        train(max_steps=1, eval_do_concat_batches=joined, per_device_eval_batch_size=5).evaluate(PAIRS)
        for joined in (True, False)
    )
    assert {name: value for name, value in one.items() if name in ("eval_spearman", "eval_pearson")} == {
        name: value for name, value in other.items() if name in ("eval_spearman", "eval_pearson")
    }


# --- steps ------------------------------------------------------------------------------------------------------------


def test_two_accumulated_batches_have_the_gradients_of_one_batch(train):
    found = []
    for size, accumulated in ((32, 1), (16, 2)):
        callback = Gradients()
        options = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulated, "max_grad_norm": 0}
        train(MANY, [callback], dropout=False, max_steps=1, train_sampling_strategy="sequential", **options)
        found.append(callback.found)
    assert distance(*found) <= 1e-5 * max(float(gradient.abs().max()) for gradient in found[0].values())


@pytest.mark.slow
def test_a_run_resumes_within_an_epoch_and_between_accumulated_batches_to_the_same_bits(train, tmp_path):
    """An epoch has three steps; the run resumes after the second."""
    options = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "max_steps": 5}
    options |= {"save_strategy": "steps", "save_steps": 2}
    whole = train(**options)
    resumed = train(**options, resume=str(tmp_path / "run" / "checkpoint-2"), output_dir=str(tmp_path / "other"))
    assert distance(weights(whole.model), weights(resumed.model)) == 0
    files = (tmp_path / name / "checkpoint-4" / "model.safetensors" for name in ("run", "other"))
    assert len({digest(path) for path in files}) == 1


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"num_train_epochs": 1}, 3),
        ({"num_train_epochs": 0.5}, 2),
        ({"num_train_epochs": 1, "per_device_train_batch_size": 5}, 3),
        ({"num_train_epochs": 1, "per_device_train_batch_size": 5, "dataloader_drop_last": True}, 2),
    ],
)
def test_epochs_have_the_right_number_of_steps(train, options, steps):
    assert train(**options).state.global_step == steps


def test_data_loader_workers_change_no_bit(train):
    alone, helped = (train(max_steps=3, dataloader_num_workers=count) for count in (0, 2))
    assert distance(weights(alone.model), weights(helped.model)) == 0


def test_the_learning_rate_follows_the_schedule(train):
    diary = Diary()
    train(callbacks=[diary], max_steps=4, lr_scheduler_type="cosine", logging_strategy="steps", logging_steps=1)
    rates = [logs["learning_rate"] for _, logs in diary.logs if "learning_rate" in logs]
    wanted = [(1 + torch.tensor(step * torch.pi / 4).cos().item()) / 2 * 1e-3 for step in range(4)]
    assert rates == pytest.approx(wanted)


@pytest.mark.slow
def test_gradients_are_clipped_unless_clipping_is_off(train):
    off, loose, tight = (weights(train(max_steps=2, optim="sgd", max_grad_norm=norm).model) for norm in (0, 1e9, 1e-3))
    assert distance(off, loose) < 1e-7
    assert distance(off, tight) > 1e-5


def test_the_optimizer_is_the_fused_one(train):
    assert all(group["fused"] for group in train(max_steps=1).optimizer.param_groups)


# --- memory and compilation -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"mini_batch_size": 3}, {"bf16": True}], ids=["whole", "parts", "bf16"])
def test_gradient_checkpointing_changes_no_bit(train, options):
    plain = train(max_steps=3, **options)
    checkpointed = train(max_steps=3, **options, **_checkpointing())
    assert checkpointed.model.towers["document"].backbone.recomputing
    assert distance(weights(plain.model), weights(checkpointed.model)) == 0


def _checkpointing():
    return {CHECKPOINTING: True, f"{CHECKPOINTING}_kwargs": {"use_reentrant": False}}


def test_gradient_checkpointing_stores_only_the_inputs_of_layers(tiny_encoder):
    batch = PairCollator(tiny_encoder.tokenizer)(MANY)
    tiny_encoder.train()

    def kept():
        weights = sum(value.numel() * 4 for value in tiny_encoder.towers["document"].backbone.encoder.parameters())
        return stored_bytes(lambda: tiny_encoder(batch["text1_input_ids"], batch["text1_attention_mask"])) - weights

    plain = kept()
    tiny_encoder.gradient_checkpointing_enable()
    assert (
        kept() + sum(value.numel() * 4 for value in tiny_encoder.towers["document"].backbone.encoder.parameters())
        < plain / 2
    )
    tiny_encoder.gradient_checkpointing_disable()
    assert kept() == plain


@pytest.mark.parametrize("options", [{"use_reentrant": True}, {"determinism_check": "none"}])
def test_unsupported_options_of_gradient_checkpointing_are_refused(tiny_encoder, options):
    with pytest.raises(InputError, match=next(iter(options))):
        tiny_encoder.gradient_checkpointing_enable(options)
    with pytest.raises(InputError, match="every_n_layers"):
        tiny_encoder.activation_checkpointing_enable(every_n_layers=2)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler warns of itself
def test_a_compiled_tower_gives_the_same_weights(train):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = train(max_steps=2, dropout=False, torch_compile=True, torch_compile_backend="eager")
    assert torch._dynamo.utils.counters["frames"]["ok"] > 0
    assert distance(weights(compiled.model), weights(train(max_steps=2, dropout=False).model)) < 1e-6


# --- the same seed, and options that are refused ----------------------------------------------------------------------

WORKER = """
import sys
from simpair import TwinTowerEncoder
from simpair.training import TwinTowerTrainer, TwinTowerTrainingArguments
from tests.training.trainer.test_trainer import PAIRS

model, out, seed, strict = sys.argv[1:]
encoder = TwinTowerEncoder.from_pretrained(model, device="cpu")
args = TwinTowerTrainingArguments(
    output_dir=out, max_steps=3, per_device_train_batch_size=4, learning_rate=1e-3, use_cpu=True, save_strategy="no",
    disable_tqdm=True, seed=int(seed), full_determinism=bool(int(strict)),
)
TwinTowerTrainer(encoder, args, train_dataset=PAIRS).train()
encoder.save_pretrained(out)
"""


@pytest.mark.slow
def test_a_seed_gives_the_same_bits_in_every_process(tiny_model, tmp_path):
    found = []
    for number, (seed, strict) in enumerate([(3, 0), (3, 0), (3, 1), (4, 0)]):
        out = tmp_path / str(number)
        command = [sys.executable, "-c", WORKER, str(tiny_model), str(out), str(seed), str(strict)]
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
        ran = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
        assert ran.returncode == 0, ran.stderr[-3000:]
        found.append(digest(out / "model.safetensors"))
    assert found[0] == found[1] == found[2] != found[3]


@pytest.mark.parametrize(
    "options",
    [
        {"label_smoothing_factor": 0.1},
        {"neftune_noise_alpha": 5.0},
        {"use_liger_kernel": True},
        {"use_cache": True},
        {"include_num_input_tokens_seen": True},
        {"label_names": ["score"]},
        {"length_column_name": "tokens"},
        {"remove_unused_columns": True},
        {"fp16": True},
        {"fp16_full_eval": True},
        {"bf16_full_eval": True},
        {"fsdp": "full_shard"},
        {"deepspeed": {"zero_optimization": {"stage": 2}}},
        {"push_to_hub": True},
        {"train_sampling_strategy": "group_by_length"},
        {"train_sampling_strategy": "batch_rebalance"},
        {"batch_eval_metrics": True},
        {"mini_batch_size": 2.5},
        {"mini_batch_size": -1},
        {"learning_rate": -1.0},
        {"learning_rate": float("nan")},
        {"include_for_metrics": ["inputs"]},
    ],
    ids=lambda options: next(iter(options)),
)
def test_an_option_without_effect_is_refused(arguments, options):
    with pytest.raises(InputError, match=next(iter(options))):
        arguments(**options)


def test_arguments_can_be_copied_and_options_that_are_off_are_accepted(arguments):
    whole = arguments(label_smoothing_factor=0.0, fsdp=None, use_cache=False, fp16=False, label_names=None)
    assert TwinTowerTrainingArguments(**{**whole.to_dict(), "seed": 8}).seed == 8


def test_compute_loss_func_is_refused(tiny_encoder, arguments):
    with pytest.raises(InputError, match="compute_loss_func"):
        TwinTowerTrainer(tiny_encoder, arguments(), train_dataset=ASKED, compute_loss_func=lambda *_: 0)


@pytest.mark.parametrize("dims", [[33], [0, 8], [16, -1]])
def test_dimensions_that_the_encoder_does_not_have_are_refused(tiny_encoder, arguments, dims):
    with pytest.raises(InputError, match="give dimensions from 1 to 32, the encoder's"):
        TwinTowerTrainer(tiny_encoder, arguments(matryoshka_dims=dims))
