import torch, transformers, sys
sys.path.insert(0, "tests/training")
def test_dbg(tiny_model, tmp_path):
    from simpair.model import TwinTowerEncoder
    from simpair.training import TwinTowerTrainer, TwinTowerTrainingArguments, ScoredPair
    P=[ScoredPair(f"a cat {n}", f"the dog {n*n}", n/11) for n in range(12)]
    start = {k:v.clone() for k,v in TwinTowerEncoder.from_pretrained(tiny_model, device="cpu").state_dict().items()}
    out=[]
    for o in ({"per_device_train_batch_size": 4}, {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}):
        e=TwinTowerEncoder.from_pretrained(tiny_model, device="cpu")
        for m in e.modules():
            if hasattr(m,"_dropout"): m._dropout=0.0
            if isinstance(m, torch.nn.Dropout): m.p=0.0
        args=TwinTowerTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **o, max_steps=3, optim="sgd", learning_rate=1e-2, train_sampling_strategy="sequential", save_strategy="no", disable_tqdm=True, lr_scheduler_type="constant", max_grad_norm=0.0)
        t=TwinTowerTrainer(e,args,train_dataset=P)
        orig=t.compute_loss
        def cl(model, inputs, *a, **k):
            l=orig(model, inputs, *a, **k); print("   in", inputs["text1_input_ids"][:,:4].tolist(), float(l.detach()), k); return l
        t.compute_loss=cl
        t.train()
        out.append({k:v.clone() for k,v in e.state_dict().items()})
    d=lambda a,b: max(float((a[k]-b[k]).abs().max()) for k in a)
    print(transformers.__version__, "between", d(*out), "moved", d(start,out[0]), d(start,out[1]))
