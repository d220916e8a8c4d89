"""Two processes give the gradients of one that has the joined batch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from simpair import TwinTowerEncoder
from simpair.training import PairCollator, RetrievalPair, ScoredPair, TwinTowerTrainer, TwinTowerTrainingArguments
from simpair.training.trainer.checkpoints import verify

# Texts of different lengths, one of them on both sides, so that the processes' batches are padded differently.
ASKED = [RetrievalPair(f"query {n} {'more ' * n}", f"text pair {n % 6} runs", (f"slow mat {n}",)) for n in range(8)]
SCORED = [ScoredPair(f"the cat {n}", f"a dog {'red ' * n}", (n % 4) / 3) for n in range(8)]
WORKER = """
import os
import sys
import torch
from torch.nn.parallel import DistributedDataParallel
from simpair import TwinTowerEncoder
from simpair.training import PairCollator, TwinTowerTrainer, TwinTowerTrainingArguments
from tests.training.trainer.test_processes import ASKED, SCORED

model, loss, mini, out = sys.argv[1:]
encoder = TwinTowerEncoder.from_pretrained(model, device="cpu").eval()
args = TwinTowerTrainingArguments(
    output_dir=out + "-run", use_cpu=True, ddp_backend="gloo", loss=loss, mini_batch_size=int(mini)
)
trainer = TwinTowerTrainer(encoder, args)
records, rank = (ASKED if loss == "info_nce" else SCORED), args.process_index
batch = PairCollator(encoder.tokenizer)(records[rank * 4 : rank * 4 + 4])
wrapped = DistributedDataParallel(encoder)  # it must outlive the backward
trainer.compute_loss(wrapped, batch).backward()
if rank == 1:
    torch.save({name: value.grad for name, value in encoder.named_parameters()}, out)
torch.distributed.barrier()
torch.distributed.destroy_process_group()
os._exit(0)  # a thread of gloo that is left would abort a process that ends as others do
"""


def launch(script, *arguments):
    """Two processes of a script."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=0", "--standalone"]
    ran = subprocess.run(
        [*command, *map(str, (script, *arguments))],
        capture_output=True,
        text=True,
        timeout=240,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]


def apart(encoder, theirs):
    """How far gradients are from those of the encoder, as a fraction of their norm."""
    distance = sum(float((value.grad - theirs[name]).square().sum()) for name, value in encoder.named_parameters())
    return (distance / sum(float(value.grad.square().sum()) for value in encoder.parameters())) ** 0.5


@pytest.mark.slow
@pytest.mark.parametrize(("loss", "mini"), [("info_nce", 0), ("info_nce", 5), ("cosent", 0), ("cosine_mse", 0)])
def test_two_processes_give_the_gradients_of_the_joined_batch(tiny_model, tmp_path, loss, mini):
    script, out = tmp_path / "worker.py", tmp_path / "gradients.pt"
    script.write_text(WORKER, encoding="utf-8")
    launch(script, tiny_model, loss, mini, out)
    encoder = TwinTowerEncoder.from_pretrained(tiny_model, device="cpu").eval()
    args = TwinTowerTrainingArguments(output_dir=str(tmp_path / "run"), use_cpu=True, loss=loss)
    batch = PairCollator(encoder.tokenizer)(ASKED if loss == "info_nce" else SCORED)
    TwinTowerTrainer(encoder, args).compute_loss(encoder, batch).backward()
    assert apart(encoder, torch.load(out, weights_only=True)) <= 1e-5


RUN = """
import os
import sys
import torch
from simpair import TwinTowerEncoder
from simpair.training import fine_tune
from tests.training.trainer.test_processes import ASKED, SCORED

model, out = sys.argv[1:]
encoder = TwinTowerEncoder.from_pretrained(model, device="cpu")
wanted = {"ddp_backend": "gloo"}
fine_tune(encoder, {"a": SCORED, "b": SCORED[:4]}, batch_size=2, epochs=2, output_dir=out, arguments=wanted)
torch.distributed.barrier()
torch.distributed.destroy_process_group()
os._exit(0)
"""


@pytest.mark.slow
def test_two_processes_fine_tune_into_one_folder(tiny_model, tmp_path):
    script, out = tmp_path / "run.py", tmp_path / "out"
    script.write_text(RUN, encoding="utf-8")
    launch(script, tiny_model, out)
    (last,) = (path for path in out.glob("checkpoint-*") if path.name == "checkpoint-6")
    verify(last)
    assert {path.name for path in last.glob("rng_state_*")} == {"rng_state_0.pth", "rng_state_1.pth"}
    whole = TwinTowerEncoder.from_pretrained(out)
    assert whole.fingerprint == TwinTowerEncoder.from_pretrained(last).fingerprint
    assert whole.fingerprint != TwinTowerEncoder.from_pretrained(tiny_model).fingerprint
    assert (out / "run.json").is_file()
