"""The trainer has the loss of a plain loop, its checkpoints are complete, and resuming gives the same bits."""

import copy
import hashlib
import json
import logging
import shutil
from itertools import count

import pytest
import torch
from torch.nn.functional import cosine_similarity, normalize

from simpair import TwinTowerEncoder
from simpair.errors import InputError, TrainingError
from simpair.training import (
    PairCollator,
    RetrievalPair,
    ScoredPair,
    TwinTowerTrainer,
    TwinTowerTrainingArguments,
    cosent,
    cosine_mse,
    embed_columns,
    false_negative_mask,
    info_nce,
)

PAIRS = [
    ScoredPair(f"the cat {a}", f"a dog {b}", ((a * 7 + b * 3) % 5) / 4)
    for a, b in zip(range(12), range(12, 0, -1), strict=True)
]
ASKED = [RetrievalPair(f"query {n}", f"text pair {n} runs", (f"slow mat {n}",)) for n in range(6)]


@pytest.fixture(autouse=True)
def quiet():
    logging.getLogger("transformers").setLevel(logging.ERROR)


@pytest.fixture
def arguments(tmp_path):
    def make(**options):
        defaults = {
            "output_dir": str(tmp_path / "run"),
            "loss": "cosine_mse",
            "per_device_train_batch_size": 4,
            "num_train_epochs": 2,
            "learning_rate": 1e-3,
            "logging_strategy": "no",
            "save_strategy": "no",
            "disable_tqdm": True,
            "use_cpu": True,
            "seed": 3,
        }
        return TwinTowerTrainingArguments(**{**defaults, **options})

    return make


def weights(encoder):
    return {name: value.detach().clone() for name, value in encoder.state_dict().items()}


def distance(one, other):
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("loss", ["cosine_mse", "cosent", "info_nce"])
def test_the_loss_and_its_gradient_equal_those_of_two_plain_forward_passes(tiny_encoder, arguments, loss):
    trainer = TwinTowerTrainer(tiny_encoder, arguments(loss=loss))
    batch = PairCollator(tiny_encoder.tokenizer)(ASKED if loss == "info_nce" else PAIRS[:6])
    tiny_encoder.eval()  # no dropout
    trainer.compute_loss(tiny_encoder, batch).backward()
    joined = {name: value.grad.clone() for name, value in tiny_encoder.named_parameters()}
    tiny_encoder.zero_grad()

    def tower(name):
        return tiny_encoder(batch[f"{name}_input_ids"], batch[f"{name}_attention_mask"])

    if loss == "info_nce":
        plain = info_nce(tower("text1"), tower("text2"), tower("negative1"))
    else:
        plain = {"cosine_mse": cosine_mse, "cosent": cosent}[loss](tower("text1"), tower("text2"), batch["labels"])
    plain.backward()
    for name, value in tiny_encoder.named_parameters():
        assert torch.allclose(joined[name], value.grad, rtol=1e-4, atol=1e-6), name


def test_embed_columns_equals_encode(tiny_encoder):
    batch = PairCollator(tiny_encoder.tokenizer)(PAIRS)
    text1, text2 = embed_columns(tiny_encoder, batch)
    for column, texts in ((text1, [p.text1 for p in PAIRS]), (text2, [p.text2 for p in PAIRS])):
        assert torch.allclose(column, torch.from_numpy(tiny_encoder.encode(texts)), atol=1e-6)


@pytest.mark.slow
def test_training_learns_the_labels(tiny_encoder, arguments):
    trainer = TwinTowerTrainer(tiny_encoder, arguments(num_train_epochs=60), train_dataset=PAIRS, eval_dataset=PAIRS)
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    assert after["eval_loss"] < before["eval_loss"] / 2
    assert after["eval_spearman"] > before["eval_spearman"] + 0.3


def test_evaluation_reports_the_cosines_of_the_towers(tiny_encoder, arguments):
    predictions = TwinTowerTrainer(tiny_encoder, arguments()).predict(PAIRS)
    one, other = (torch.from_numpy(tiny_encoder.encode([pair[side] for pair in PAIRS])) for side in (0, 1))
    assert torch.allclose(torch.from_numpy(predictions.predictions), cosine_similarity(one, other), atol=1e-6)
    assert predictions.label_ids.tolist() == pytest.approx([pair.label for pair in PAIRS])


def test_pairs_without_labels_can_be_evaluated(tiny_encoder, arguments):
    metrics = TwinTowerTrainer(tiny_encoder, arguments(loss="info_nce")).evaluate(ASKED)
    assert metrics["eval_loss"] > 0
    assert "eval_spearman" not in metrics


def test_a_batch_without_labels_needs_info_nce(tiny_encoder, arguments):
    with pytest.raises(TrainingError, match="info_nce"):
        TwinTowerTrainer(tiny_encoder, arguments(), train_dataset=ASKED).train()


def test_a_subclass_can_have_its_own_loss(tiny_encoder, arguments):
    class Hinge(TwinTowerTrainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            text1, text2 = embed_columns(model, inputs)
            loss = (1 - cosine_similarity(text1, text2)).clamp(min=0).mean()
            return (loss, {"scores": cosine_similarity(text1, text2)}) if return_outputs else loss

    trainer = Hinge(tiny_encoder, arguments(num_train_epochs=10), train_dataset=PAIRS)
    before = trainer.evaluate(PAIRS)["eval_loss"]
    trainer.train()
    assert trainer.evaluate(PAIRS)["eval_loss"] < before


def test_accumulated_batches_equal_one_batch(tiny_model, arguments):
    runs = []
    for size, accumulated in ((4, 1), (2, 2)):
        encoder = TwinTowerEncoder.from_pretrained(tiny_model)
        silence_dropout(encoder)
        options = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulated}
        args = arguments(**options, max_steps=3, optim="sgd", train_sampling_strategy="sequential")
        TwinTowerTrainer(encoder, args, train_dataset=PAIRS).train()
        runs.append(weights(encoder))
    assert distance(*runs) < 1e-6


def silence_dropout(encoder):
    for module in encoder.modules():
        if hasattr(module, "_dropout"):
            module._dropout = 0.0
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0


@pytest.mark.parametrize("resumed_at", [2, 4])
def test_an_interrupted_run_resumes_to_the_same_bits(tiny_model, arguments, tmp_path, resumed_at):
    """With dropout on, so weights, optimizer, schedule, order and random state all have to be restored."""
    options = {"max_steps": 6, "save_strategy": "steps", "save_steps": 2}
    whole = TwinTowerTrainer(TwinTowerEncoder.from_pretrained(tiny_model), arguments(**options), train_dataset=PAIRS)
    whole.train()
    encoder = TwinTowerEncoder.from_pretrained(tiny_model)
    resumed = TwinTowerTrainer(encoder, arguments(**options, output_dir=str(tmp_path / "other")), train_dataset=PAIRS)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / f"checkpoint-{resumed_at}"))
    assert digest(tmp_path / "run" / "checkpoint-6" / "model.safetensors") == digest(
        tmp_path / "other" / "checkpoint-6" / "model.safetensors"
    )


@pytest.mark.parametrize("lost", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_checkpoint_without_its_training_state_is_refused(tiny_encoder, arguments, tmp_path, lost):
    options = {"max_steps": 2, "save_strategy": "steps", "save_steps": 2}
    TwinTowerTrainer(tiny_encoder, arguments(**options), train_dataset=PAIRS).train()
    folder = tmp_path / "run" / "checkpoint-2"
    (folder / lost).unlink()
    trainer = TwinTowerTrainer(tiny_encoder, arguments(max_steps=4), train_dataset=PAIRS)
    with pytest.raises(TrainingError, match=lost):
        trainer.train(resume_from_checkpoint=str(folder))


def test_damaged_weights_are_not_resumed_from(tiny_encoder, arguments, tmp_path):
    options = {"max_steps": 2, "save_strategy": "steps", "save_steps": 2}
    TwinTowerTrainer(tiny_encoder, arguments(**options), train_dataset=PAIRS).train()
    path = tmp_path / "run" / "checkpoint-2" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(TrainingError, match=r"model\.safetensors is not the file"):
        TwinTowerTrainer(tiny_encoder, arguments(max_steps=4), train_dataset=PAIRS).train(
            resume_from_checkpoint=str(path.parent)
        )


def test_checkpoints_open_as_models_and_hold_no_pickle_and_no_token(tiny_encoder, arguments, tmp_path):
    options = {"max_steps": 2, "save_strategy": "steps", "save_steps": 2, "hub_token": "hf_canary"}
    TwinTowerTrainer(tiny_encoder, arguments(**options), train_dataset=PAIRS).train()
    folder = tmp_path / "run" / "checkpoint-2"
    assert not (folder / "training_args.bin").exists()
    assert json.loads((folder / "training_args.json").read_text(encoding="utf-8"))["loss"] == "cosine_mse"
    assert not any(b"hf_canary" in path.read_bytes() for path in folder.rglob("*") if path.is_file())
    reopened = TwinTowerEncoder.from_pretrained(folder)
    assert (reopened.encode(["the cat"]) == tiny_encoder.encode(["the cat"])).all()


@pytest.mark.slow
def test_the_best_checkpoint_is_loaded_at_the_end(tiny_model, arguments, tmp_path):
    """The metric says that the first checkpoint is the best, and it differs from the last."""
    options = {
        "max_steps": 4,
        "metric_for_best_model": "earliness",
        "save_strategy": "steps",
        "save_steps": 1,
        "eval_strategy": "steps",
        "eval_steps": 1,
        "load_best_model_at_end": True,
    }

    class Forgetful(TwinTowerTrainer):
        def _load_best_model(self):
            pass

    endings = {}
    for kind in (TwinTowerTrainer, Forgetful):
        encoder = TwinTowerEncoder.from_pretrained(tiny_model)
        args = arguments(**options, output_dir=str(tmp_path / kind.__name__))
        steps = count()
        trainer = kind(
            encoder,
            args,
            train_dataset=PAIRS,
            eval_dataset=PAIRS,
            compute_metrics=lambda _, steps=steps: {"earliness": -next(steps)},
        )
        trainer.train()
        best = TwinTowerEncoder.from_pretrained(trainer.state.best_model_checkpoint)
        assert trainer.state.best_model_checkpoint == str(tmp_path / kind.__name__ / "checkpoint-1")
        endings[kind] = distance(weights(encoder), weights(best))
    assert endings[TwinTowerTrainer] == 0.0
    assert endings[Forgetful] > 0.0  # the control


@pytest.mark.slow
def test_a_run_resumes_from_the_newest_complete_checkpoint_to_the_same_bits(
    tiny_model, arguments, tmp_path, caplog, monkeypatch
):
    """Saving step 4 is interrupted; resuming from step 2, which is complete, gives the bits of the whole run."""
    options = {"max_steps": 6, "save_strategy": "steps", "save_steps": 2}
    whole = TwinTowerEncoder.from_pretrained(tiny_model)
    TwinTowerTrainer(whole, arguments(**options, output_dir=str(tmp_path / "whole")), train_dataset=PAIRS).train()

    class Stopped(TwinTowerTrainer):
        def _save_rng_state(self, output_dir):
            if self.state.global_step == 4:
                raise KeyboardInterrupt
            super()._save_rng_state(output_dir)

    with pytest.raises(KeyboardInterrupt):
        Stopped(TwinTowerEncoder.from_pretrained(tiny_model), arguments(**options), train_dataset=PAIRS).train()
    assert (tmp_path / "run" / "checkpoint-4" / "model.safetensors").exists()
    again = TwinTowerEncoder.from_pretrained(tiny_model)
    with caplog.at_level(logging.WARNING, "simpair"):
        TwinTowerTrainer(again, arguments(**options), train_dataset=PAIRS).train(resume_from_checkpoint=True)
    assert "checkpoint-4 is incomplete" in caplog.text
    assert distance(weights(whole), weights(again)) == 0
    names = [f"checkpoint-{step}/model.safetensors" for step in (2, 4, 6)]
    assert [digest(tmp_path / "run" / name) for name in names] == [digest(tmp_path / "whole" / name) for name in names]


def test_a_loss_that_is_not_finite_stops_the_run(tiny_encoder, arguments):
    class Broken(TwinTowerTrainer):
        def compute_loss(self, *args, **kwargs):
            loss = super().compute_loss(*args, **kwargs)
            return loss * float("nan") if self.state.global_step == 1 else loss

    with pytest.raises(TrainingError, match="step 2"):
        Broken(tiny_encoder, arguments(), train_dataset=PAIRS).train()


def test_another_model_is_a_type_error(arguments):
    with pytest.raises(TypeError, match="TwinTowerEncoder"):
        TwinTowerTrainer(torch.nn.Linear(2, 2), arguments())


def test_equal_texts_are_false_negatives(tiny_encoder):
    """Rows: 0 and 1 share a positive, 0 and 2 share an anchor, and the negative of 3 is its own anchor."""
    records = [
        RetrievalPair("cat", "dog", ("mat",)),
        RetrievalPair("model", "dog", ("red",)),
        RetrievalPair("cat", "blue", ("fast",)),
        RetrievalPair("query", "text", ("query",)),
    ]
    mask = false_negative_mask(PairCollator(tiny_encoder.tokenizer)(records)).int().tolist()
    assert mask == [
        [1, 1, 1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0, 0],
        [1, 0, 1, 0, 0, 0, 0, 0],
        [0, 0, 0, 1, 0, 0, 0, 1],
    ]


def test_encoding_after_a_step_uses_the_new_weights(tiny_encoder, arguments):
    """Packed weights must not be used after an optimizer step."""
    before = tiny_encoder.encode(["the cat"])
    TwinTowerTrainer(tiny_encoder, arguments(max_steps=1), train_dataset=PAIRS).train()
    after = tiny_encoder.encode(["the cat"])
    assert abs(before - after).max() > 1e-4
    ids, mask = tiny_encoder.tokenizer.pad(["the cat"])
    tiny_encoder.eval()
    assert torch.allclose(tiny_encoder(ids, mask).detach(), torch.from_numpy(after), atol=1e-6)
    assert torch.allclose(normalize(torch.from_numpy(after)), torch.from_numpy(after), atol=1e-6)


def test_the_encoder_can_be_copied_after_encoding(tiny_encoder):
    tiny_encoder.encode(["the cat"])
    twin = copy.deepcopy(tiny_encoder)
    assert (twin.encode(["the cat"]) == tiny_encoder.encode(["the cat"])).all()


def test_rotation_keeps_save_total_limit_checkpoints(tiny_encoder, arguments, tmp_path):
    options = {"max_steps": 3, "save_strategy": "steps", "save_steps": 1, "save_total_limit": 2}
    TwinTowerTrainer(tiny_encoder, arguments(**options), train_dataset=PAIRS).train()
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["checkpoint-2", "checkpoint-3"]
    shutil.rmtree(tmp_path / "run")


def test_info_nce_refuses_labels_and_a_loss_must_exist(tiny_encoder, arguments):
    with pytest.raises(TrainingError, match="labels"):
        TwinTowerTrainer(tiny_encoder, arguments(loss="info_nce"), train_dataset=PAIRS).train()
    with pytest.raises(InputError, match="mse"):
        arguments(loss="mse")
    with pytest.raises(InputError, match="mini_batch_size"):
        arguments(mini_batch_size=-1)
