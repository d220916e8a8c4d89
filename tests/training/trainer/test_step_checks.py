"""A step that goes wrong is an error or a warning that names its records."""

import logging

import pytest
import torch

from simpair import TwinTowerEncoder
from simpair.errors import TrainingError
from simpair.training import RetrievalPair, ScoredPair, TwinTowerTrainer, TwinTowerTrainingArguments, fine_tune
from simpair.training.trainer.step_checks import StepChecks

PAIRS = [ScoredPair(f"the cat {n}", f"a dog {n % 3}", (n % 4) / 3) for n in range(16)]


class Broken(TwinTowerTrainer):
    """Its loss is not finite where one pair is in the batch."""

    def compute_loss(self, model, inputs, *args, **kwargs):
        assert "rows" not in inputs, "the loss does not get the rows"
        loss = super().compute_loss(model, inputs, *args, **kwargs)
        return loss * float("nan") if float(inputs["labels"].max()) == 1 else loss


@pytest.fixture
def arguments(tmp_path):
    def make(**options):
        defaults = {
            "output_dir": str(tmp_path),
            "loss": "cosine_mse",
            "per_device_train_batch_size": 2,
            "max_steps": 8,
            "disable_tqdm": True,
            "use_cpu": True,
            "train_sampling_strategy": "sequential",
        }
        return TwinTowerTrainingArguments(**{**defaults, **options})

    return make


def test_a_loss_that_is_not_finite_names_step_and_rows(tiny_encoder, arguments):
    trainer = Broken(tiny_encoder, arguments(), train_dataset=PAIRS)
    with pytest.raises(
        TrainingError, match=r"loss of step 2 is nan; .*Its records: train_dataset, row 3; train_dataset, row 4$"
    ):
        trainer.train()


def test_a_gradient_that_is_not_finite_names_all_rows_of_the_step(tiny_encoder, arguments):
    weight = tiny_encoder.towers["document"].backbone.embeddings.word_embeddings.weight
    weight.register_hook(lambda gradient: gradient * float("inf"))
    trainer = TwinTowerTrainer(tiny_encoder, arguments(gradient_accumulation_steps=2), train_dataset=PAIRS)
    before = weight.detach().clone()
    with pytest.raises(
        TrainingError,
        match=r"gradient of step 1 is (inf|nan); .*Its records: train_dataset, row 1; .*; train_dataset, row 4$",
    ):
        trainer.train()
    assert torch.equal(weight, before), "the optimizer has not seen it"


def test_fine_tune_names_files_and_lines(tiny_encoder, tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text("text1,text2,label\n" + "".join(f"{a},{b},{label}\n" for a, b, label in PAIRS), encoding="utf-8")
    with pytest.raises(TrainingError, match=rf"of step \d+ is .*{path}:\d+; {path}:\d+") as caught:
        fine_tune(tiny_encoder, path, learning_rate=1e38, batch_size=12, epochs=9, loss="cosine_mse")
    assert str(caught.value).endswith((" and 4 more", f"{path}:{str(caught.value).rsplit(':', 1)[1]}"))


def test_a_loss_that_is_not_finite_names_the_rows_of_its_batch_only(tiny_encoder, arguments):
    trainer = Broken(tiny_encoder, arguments(gradient_accumulation_steps=4), train_dataset=PAIRS)
    with pytest.raises(
        TrainingError, match=r"loss of step 1 is nan; .*Its records: train_dataset, row 3; train_dataset, row 4$"
    ):
        trainer.train()


def test_evaluation_batches_are_not_checked(tiny_encoder, arguments, caplog):
    """Dev pairs sorted by label give batches of one label."""
    dev = sorted(PAIRS, key=lambda pair: pair.label)
    wanted = arguments(loss="cosent", eval_strategy="steps", eval_steps=2, per_device_eval_batch_size=2)
    TwinTowerTrainer(tiny_encoder, wanted, train_dataset=PAIRS, eval_dataset=dev).train()
    assert not caplog.messages


def test_embeddings_that_are_nan_have_not_collapsed(caplog):
    checks = StepChecks()
    checks.begin_batch(1, None)
    texts = {"text1_input_ids": torch.tensor([[1], [2]]), "text1_attention_mask": torch.ones(2, 1)}
    checks.check_embeddings([torch.full((2, 4), float("nan"))], texts)
    assert not caplog.messages
    checks.check_embeddings([torch.ones(2, 4)], texts)
    assert "collapsed" in caplog.text


def test_a_batch_of_one_label_is_logged_once_and_counted(tiny_encoder, arguments, caplog):
    pairs = [pair._replace(label=float(n < 14)) for n, pair in enumerate(PAIRS)]
    TwinTowerTrainer(tiny_encoder, arguments(loss="cosent"), train_dataset=pairs).train()
    logged = [message for message in caplog.messages if "there is no order" in message]
    assert len(logged) == 1
    assert "step 1: every label is 1" in logged[0]
    assert "row 1; train_dataset, row 2" in logged[0]
    assert "nothing was learned from 8 of 8 batches" in caplog.messages


@pytest.mark.slow
def test_a_batch_of_equal_positives_is_logged_once_and_counted(tiny_encoder, arguments, caplog):
    same = [RetrievalPair("the cat", "a dog")] * 16
    TwinTowerTrainer(tiny_encoder, arguments(loss="info_nce"), train_dataset=same).train()
    (logged, counted) = caplog.messages
    assert "a batch of step 1: no anchor has a negative among the candidates" in logged
    assert counted == "nothing was learned from 8 of 8 batches"
    caplog.clear()
    others = [RetrievalPair(f"the cat {n}", f"a dog {n}") for n in range(16)]
    TwinTowerTrainer(tiny_encoder, arguments(loss="info_nce"), train_dataset=others).train()
    TwinTowerTrainer(
        tiny_encoder, arguments(loss="info_nce"), train_dataset=[RetrievalPair("a", "b", ("c",))] * 16
    ).train()
    assert not caplog.messages


def test_batches_of_two_labels_are_not_logged(tiny_encoder, arguments, caplog):
    TwinTowerTrainer(tiny_encoder, arguments(loss="cosent"), train_dataset=PAIRS).train()
    TwinTowerTrainer(tiny_encoder, arguments(), train_dataset=[pair._replace(label=1.0) for pair in PAIRS]).train()
    assert not caplog.messages, "cosine_mse learns from any label"


@pytest.mark.parametrize("label", [5.0, -1.5])
def test_labels_outside_the_range_of_a_cosine_stop_the_run(label):
    checks = StepChecks()
    checks.begin_batch(3, torch.tensor([0, 1]))
    checks.check_labels(torch.tensor([0.5, label]), ranked=True)
    with pytest.raises(
        TrainingError, match=r"labels of step 3 range from .*, but a cosine is from -1 to 1; .* Its records: row 1"
    ):
        checks.check_labels(torch.tensor([0.5, label]), ranked=False)


def test_equal_embeddings_of_different_texts_are_logged_once(tiny_model, arguments, caplog):
    encoder = TwinTowerEncoder.from_pretrained(tiny_model)
    with torch.no_grad():  # every text gets the same embedding
        for name, weight in encoder.named_parameters():
            weight.zero_()
            if name.endswith("LayerNorm.bias"):
                weight.add_(torch.arange(len(weight)))
    TwinTowerTrainer(encoder, arguments(), train_dataset=PAIRS).train()
    assert sum("collapsed" in message for message in caplog.messages) == 1
    assert "step 1" in caplog.messages[0]


def test_equal_texts_may_have_equal_embeddings(tiny_encoder, arguments, caplog):
    TwinTowerTrainer(tiny_encoder, arguments(), train_dataset=[ScoredPair("a", "a", 1.0)] * 16).train()
    assert not caplog.messages


def test_a_healthy_run_logs_nothing(tiny_encoder, arguments, caplog):
    caplog.set_level(logging.WARNING)
    TwinTowerTrainer(tiny_encoder, arguments(loss="angle"), train_dataset=PAIRS).train()
    assert not caplog.messages
