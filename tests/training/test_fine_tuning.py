"""fine_tune reads data in any form, trains in place, and returns a report."""

import json

import pytest
from transformers import EarlyStoppingCallback

from simpair import TwinTowerEncoder
from simpair.cli import main
from simpair.errors import DataError, InputError, TrainingError
from simpair.training import PairScores, RetrievalPair, RetrievalScores, ScoredPair, evaluate_records, fine_tune

PAIRS = [ScoredPair(f"the cat {n}", f"a dog {n % 3}", (n % 4) / 3) for n in range(16)]
ASKED = [RetrievalPair(f"query {n}", f"text {n} runs") for n in range(16)]


@pytest.mark.slow
def test_scored_pairs_train_in_place_and_report_before_and_after(tiny_encoder):
    before = tiny_encoder.fingerprint
    report = fine_tune(tiny_encoder, PAIRS, dev=PAIRS, epochs=50, batch_size=8, learning_rate=3e-3)
    assert tiny_encoder.fingerprint != before
    assert (report.records, report.loss_name, report.steps) == (16, "cosent", 100)
    assert report.after.spearman > report.before.spearman
    assert not tiny_encoder.training


def test_retrieval_pairs_train_with_info_nce(tiny_encoder):
    report = fine_tune(tiny_encoder, ASKED, dev=ASKED, epochs=20, batch_size=8, learning_rate=1e-3)
    assert report.loss_name == "info_nce"
    assert report.after.mrr_at_k > report.before.mrr_at_k


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights(tiny_model):
    prints = []
    for seed in (1, 1, 2):
        encoder = TwinTowerEncoder.from_pretrained(tiny_model)
        fine_tune(encoder, PAIRS, max_steps=3, batch_size=4, seed=seed)
        prints.append(encoder.fingerprint)
    assert prints[0] == prints[1] != prints[2]


def test_files_train_as_records_do(tiny_model, tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text(
        "text1,text2,label\n" + "\n".join(f"{a},{b},{label * 5}" for a, b, label in PAIRS), encoding="utf-8"
    )
    prints = []
    for data, scale in ((PAIRS, None), (path, (0, 5)), ([path], (0, 5))):
        encoder = TwinTowerEncoder.from_pretrained(tiny_model)
        fine_tune(encoder, data, max_steps=2, batch_size=4, label_range=scale)
        prints.append(encoder.fingerprint)
    assert prints[0] == prints[1] == prints[2]


def test_an_output_folder_holds_the_trained_encoder_and_can_be_resumed(tiny_model, tmp_path):
    whole = TwinTowerEncoder.from_pretrained(tiny_model)
    loss = fine_tune(whole, PAIRS, output_dir=tmp_path / "whole", epochs=2, batch_size=8).loss
    assert TwinTowerEncoder.from_pretrained(tmp_path / "whole").fingerprint == whole.fingerprint
    resumed = TwinTowerEncoder.from_pretrained(tiny_model)
    (tmp_path / "half").mkdir()
    for name in ("checkpoint-2", "run.json"):
        (tmp_path / "whole" / name).rename(tmp_path / "half" / name)
    report = fine_tune(resumed, PAIRS, output_dir=tmp_path / "half", epochs=2, batch_size=8, resume=True)
    assert report.steps == 4
    assert report.loss == pytest.approx(loss, rel=1e-3)  # the log's four figures
    assert resumed.fingerprint == whole.fingerprint


def test_a_single_step_trains_too(tiny_encoder):
    """Warm-up is rounded down: rounded up, it would be the only step, at a learning rate of zero."""
    before = tiny_encoder.fingerprint
    assert fine_tune(tiny_encoder, PAIRS[:10]).steps == 1
    assert tiny_encoder.fingerprint != before


def test_resume_without_a_folder_is_refused(tiny_encoder):
    with pytest.raises(InputError, match="output_dir"):
        fine_tune(tiny_encoder, PAIRS, resume=True)


@pytest.mark.parametrize("data", [[], [ScoredPair("a", "b", 3.0)], [{"text1": "a"}]])
def test_bad_records_are_refused_before_training(tiny_encoder, data):
    before = tiny_encoder.fingerprint
    with pytest.raises(DataError):
        fine_tune(tiny_encoder, data)
    assert tiny_encoder.fingerprint == before


def test_a_missing_file_is_named(tiny_encoder, tmp_path):
    with pytest.raises(DataError, match=r"none\.csv"):
        fine_tune(tiny_encoder, tmp_path / "none.csv")


def test_records_choose_their_metrics(tiny_encoder):
    assert evaluate_records(tiny_encoder, PAIRS).pairs == 16
    assert evaluate_records(tiny_encoder, ASKED).queries == 16


def test_nothing_reaches_stdout(tiny_encoder, capfd):
    fine_tune(tiny_encoder, PAIRS, max_steps=2, batch_size=4)
    assert capfd.readouterr().out == ""


def test_wrong_settings_are_refused_before_training(tiny_encoder, tmp_path):
    (tmp_path / "file").write_text("")
    before = tiny_encoder.fingerprint
    for error, data, options in (
        (InputError, PAIRS, {"loss": "info_nce"}),  # label 0 would be trained as a positive
        (InputError, ASKED, {"loss": "cosent"}),
        (InputError, PAIRS, {"loss": "mse"}),
        (InputError, PAIRS, {"batch_size": 0}),
        (InputError, PAIRS, {"arguments": {"seed": 1}}),
        (InputError, PAIRS, {"weights": [1]}),
        (InputError, PAIRS, {"epochs": float("inf")}),
        (InputError, PAIRS, {"batch_size": 4.0}),
        (InputError, PAIRS, {"epochs": 0}),
        (InputError, PAIRS, {"max_steps": 0}),
        (InputError, PAIRS, {"output_dir": tmp_path / "file"}),
        (TrainingError, PAIRS, {"output_dir": tmp_path, "resume": True}),
        (DataError, [pair._replace(label=0.5) for pair in PAIRS], {}),
        (InputError, PAIRS, {"weights": {"data": 0}}),
        (InputError, {"a": PAIRS, "b": ASKED}, {"weights": {"a": 1}}),
        (InputError, {"a": PAIRS, "b": ASKED}, {"loss": "cosent"}),
        (DataError, PAIRS, {"dev": PAIRS[:1]}),
    ):
        with pytest.raises(error):
            fine_tune(tiny_encoder, data, **options)
    assert tiny_encoder.fingerprint == before
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_name_instead_of_an_encoder_says_what_loads_it():
    with pytest.raises(TypeError, match=r"encoder is a str; .*from_pretrained"):
        fine_tune("simpair-mini", PAIRS)


def test_the_source_of_an_encoder_is_the_checkpoint_with_its_weights(tiny_model, tmp_path):
    """An index records the source; the checkpoint from which the encoder was loaded has other weights."""
    encoder = TwinTowerEncoder.from_pretrained(tiny_model)
    assert encoder.source == str(tiny_model)
    fine_tune(encoder, PAIRS, max_steps=1)
    assert encoder.source is None
    encoder.save_pretrained(tmp_path / "mine")
    assert encoder.source == str(tmp_path / "mine")
    fine_tune(encoder, PAIRS, max_steps=1, output_dir=tmp_path / "other")
    assert encoder.source == str(tmp_path / "other")
    assert TwinTowerEncoder.from_pretrained(encoder.source).fingerprint == encoder.fingerprint


@pytest.mark.slow
def test_mini_batches_give_the_same_weights_and_bfloat16_similar_ones(tiny_model):
    found = {}
    for name, options in {"whole": {}, "mini": {"mini_batch_size": 5}, "bf16": {"bf16": True}}.items():
        encoder = TwinTowerEncoder.from_pretrained(tiny_model)
        for part in encoder.modules():
            if hasattr(part, "_dropout"):
                part._dropout = 0.0
        report = fine_tune(encoder, PAIRS, max_steps=2, batch_size=8, learning_rate=1e-3, **options)
        found[name] = (report.loss, encoder.encode([pair.text1 for pair in PAIRS]))
    assert found["mini"][0] == pytest.approx(found["whole"][0], rel=1e-5)
    assert abs(found["mini"][1] - found["whole"][1]).max() < 1e-3
    assert 0 < abs(found["bf16"][1] - found["whole"][1]).max() < 0.05
    with pytest.raises(InputError, match="mini_batch_size"):
        fine_tune(TwinTowerEncoder.from_pretrained(tiny_model), PAIRS, mini_batch_size=-1)


@pytest.mark.slow
def test_a_run_without_a_complete_checkpoint_starts_from_the_beginning(tiny_model, tmp_path, caplog):
    fine_tune(
        TwinTowerEncoder.from_pretrained(tiny_model), PAIRS, max_steps=2, batch_size=8, output_dir=tmp_path / "run"
    )
    for checksums in (tmp_path / "run").glob("checkpoint-*/checkpoint.json"):
        checksums.unlink()
    prints = []
    for options in ({"output_dir": tmp_path / "run", "resume": True}, {}):
        encoder = TwinTowerEncoder.from_pretrained(tiny_model)
        fine_tune(encoder, PAIRS, max_steps=2, batch_size=8, **options)
        prints.append(encoder.fingerprint)
    assert prints[0] == prints[1]
    assert "no checkpoint is complete" in caplog.text


def test_records_may_be_any_iterable(tiny_model):
    prints = []
    for data in (PAIRS, iter(PAIRS), ({"sentence1": a, "sentence2": b, "score": label} for a, b, label in PAIRS)):
        encoder = TwinTowerEncoder.from_pretrained(tiny_model)
        fine_tune(encoder, data, max_steps=1, batch_size=4)
        prints.append(encoder.fingerprint)
    assert prints[0] == prints[1] == prints[2]


def test_options_of_the_command_line_reach_the_trainer(tiny_model, tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text("text1,text2,label\n" + "".join(f"{a},{b},{label}\n" for a, b, label in PAIRS), encoding="utf-8")
    command = ["train", str(path), "--base", str(tiny_model), "--out", str(tmp_path / "out"), "--loss", "angle"]
    assert main([*command, "--bf16", "--mini-batch-size", "3"]) == 0
    (arguments,) = (tmp_path / "out").glob("checkpoint-*/training_args.json")
    saved = json.loads(arguments.read_text(encoding="utf-8"))
    assert (saved["loss"], saved["bf16"], saved["mini_batch_size"]) == ("angle", True, 3)
    assert saved["save_total_limit"] == 2, "though the trainer resets it while it saves"


@pytest.mark.slow
def test_the_best_epoch_on_dev_is_kept_and_early_stopping_works(tiny_encoder, tmp_path):
    patience = EarlyStoppingCallback(early_stopping_patience=2)
    wanted = {"eval_strategy": "epoch", "load_best_model_at_end": True, "metric_for_best_model": "mrr_at_10"}
    report = fine_tune(
        tiny_encoder, ASKED, dev=ASKED[:9], epochs=60, batch_size=8, learning_rate=1e-3, output_dir=tmp_path,
        callbacks=[patience], arguments=wanted,
    )  # fmt: skip
    assert report.steps < 120, "stopped early"
    state = json.loads(
        max(tmp_path.glob("checkpoint-*/trainer_state.json"), key=lambda path: path.stat().st_mtime).read_text()
    )
    scores = {entry["step"]: entry["eval_mrr_at_10"] for entry in state["log_history"] if "eval_mrr_at_10" in entry}
    assert state["best_metric"] == max(scores.values()) == pytest.approx(report.after.mrr_at_k)


@pytest.mark.parametrize(("data", "dev"), [(PAIRS, ASKED), (ASKED, PAIRS)])
def test_dev_data_may_be_of_another_kind(tiny_encoder, data, dev):
    report = fine_tune(tiny_encoder, data, dev=dev, batch_size=8, arguments={"eval_strategy": "epoch"})
    assert type(report.after) is (PairScores if dev is PAIRS else RetrievalScores)


def test_dev_data_may_have_different_numbers_of_negatives(tiny_encoder):
    dev = [pair._replace(negatives=("a slow mat",) * (1 + row % 2)) for row, pair in enumerate(ASKED)]
    fine_tune(tiny_encoder, ASKED, dev=dev, batch_size=8, arguments={"eval_strategy": "epoch"})


def test_a_tenth_of_the_steps_is_warm_up(tiny_encoder, tmp_path):
    fine_tune(
        tiny_encoder, PAIRS, epochs=5, batch_size=4, arguments={"gradient_accumulation_steps": 2}, output_dir=tmp_path
    )
    saved = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))
    assert saved["arguments"]["warmup_steps"] == 1, "a tenth of ten steps"
