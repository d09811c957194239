#!/usr/bin/env python3
"""Compares SSA-train with transformers on exported models, in float32 on the CPU, and checks that SSA-train reads
models saved by transformers.

Usage: scripts/check_export.py [--build DIR] [--lengths FIRST:LAST[:STEP]] [--case NAME...]
                               [--versions VERSION,... [--packages DIR]]
Trains small models of every method, with and without llama3 RoPE scaling, exports them, and loads the directories with
trust_remote_code. Checks in each inference mode: logits for every length, generation with and without a cache, a
left-padded batch and a batched pipeline, packed documents, the loss, overrides of block_counts, block_size and
rope_scaling, and sharded weights; and that arguments which are not supported are refused, that training has the losses
and the gradient norm of
ssa_train, also of packed documents with a document mask, and that gradient checkpointing changes nothing.
With --versions it does so in each of these versions of transformers (newest: the newest on PyPI), which pip installs in
DIR/VERSION unless they are there, and prints a table.
Needs torch and transformers, and ssa_train, ssa_tokenize, ssa_export and dump_logits from the build. Exit code 77 when
torch or transformers is missing.
"""
import argparse
import collections
import importlib.util
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

TOLERANCE = 1e-4  # for a float32 logit; logits here reach about 10
LLAMA3 = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}  # short, so that all three wavelength bands occur
CASES = {  # name: method, rope_scaling, other model keys, other attention keys
    "ssa": ("ssa", None, {}, {}),
    "ssa-llama3": ("ssa", LLAMA3, {"tie_word_embeddings": False}, {}),
    "ssa-reference": ("ssa", None, {"block_counts": 4}, {"selection": "reference"}),
    "full": ("full", None, {"num_key_value_heads": 4}, {}),
    "full-llama3": ("full", LLAMA3, {}, {}),
    "moba": ("moba", None, {"num_key_value_heads": 1}, {}),
    "moba-llama3": ("moba", LLAMA3, {}, {}),
    "nsa": ("nsa", None, {}, {}),
    "nsa-llama3": ("nsa", LLAMA3, {"window_size": 9, "tie_word_embeddings": False}, {}),
}


def run(command, **options):
    result = subprocess.run([str(part) for part in command], capture_output=True,
                            env={**os.environ, "OMP_NUM_THREADS": "1"}, **options)
    if result.returncode != 0:
        sys.exit(f"check_export.py: {' '.join(map(str, command))}: exit code {result.returncode}: "
                 f"{result.stderr.decode(errors='replace').strip() or result.stdout.decode(errors='replace').strip()}")
    return result.stdout


def make_config(case):
    method, rope_scaling, model, attention = CASES[case]
    return {
        "model": {"vocab_size": 257, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
                  "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "rope_theta": 10000.0,
                  "rope_scaling": rope_scaling, "initializer_range": 0.12, "block_size": 4, "block_counts": 3,
                  "max_position_embeddings": 512, "bos_token_id": 256, "eos_token_id": 256, **model},
        "output_dir": f"runs/{case}",
        "attention": {"method": method, **attention},
        "data": {"path": "data"},
        "train": {"max_length": 128, "per_device_train_batch_size": 4, "learning_rate": 0.003, "warmup_steps": 1,
                  "max_steps": 10},
    }


def make_model(directory, case, build):
    """A model trained for a few steps. Its initial weights are large, so that attention is far from uniform."""
    (directory / f"{case}.json").write_text(json.dumps(make_config(case), indent=1))
    run([build / "ssa_train", "--config", f"{case}.json", "--device", "cpu"], cwd=directory)
    run([build / "ssa_export", f"runs/{case}", f"exported/{case}", "--dtype", "f32"], cwd=directory)
    run([build / "ssa_export", f"runs/{case}", f"sharded/{case}", "--dtype", "f32", "--max-shard-size", "0.0001"],
        cwd=directory)


def make_models(directory, cases, build):
    (directory / "text.txt").write_text("".join(f"{i} times {i} is {i * i}, and {i % 7} is left of it by 7.\n"
                                                for i in range(600)))
    run([build / "ssa_tokenize", "--tokenizer", "bytes", "--input", directory / "text.txt", "--output",
         directory / "data"])
    for case in cases:
        make_model(directory, case, build)


def cache_name():
    """Of the argument of forward() and of its output, in this version of transformers."""
    from transformers.modeling_outputs import CausalLMOutputWithPast

    return "cache" if "cache" in CausalLMOutputWithPast.__dataclass_fields__ else "past_key_values"


class Check:
    def __init__(self, build, directory, models, lengths):
        self.build, self.directory, self.models, self.lengths = build, directory, models, lengths
        self.results = []  # [check, largest difference, limit]

    def report(self, name, worst, limit=TOLERANCE):
        good = worst <= limit  # false for NaN
        self.results.append([name, worst, limit])
        print(f"{name:52} {worst:9.2e}  {'ok' if good else 'FAILED'}", flush=True)

    def ours(self, source, mode, ids, lengths):
        """This program's logits for the first n ids, for each n in lengths."""
        import numpy

        file = self.directory / "ids"
        file.write_bytes(numpy.asarray(ids, dtype=numpy.int32).tobytes())
        data = run([self.build / "dump_logits", source, mode, file, *lengths])
        flat = numpy.frombuffer(data, dtype=numpy.float32).reshape(sum(lengths), -1)
        return numpy.split(flat, numpy.cumsum(lengths)[:-1])

    def compare(self, name, model, source, mode, ids, lengths):
        """Logits of both. Rounding may decide a near tie of two blocks' importance differently in float32; at such a
        position, of which there may be a few, the model in float64 decides."""
        import copy

        import torch

        exact, worst, ties = None, 0.0, 0
        for length, ours in zip(lengths, self.ours(source, mode, ids, lengths)):
            ours = torch.from_numpy(ours.copy())
            difference = (model(ids[None, :length]).logits[0] - ours).abs().amax(-1)
            far = difference > TOLERANCE
            if far.any():
                exact = exact or copy.deepcopy(model).double()
                difference[far] = (exact(ids[None, :length]).logits[0] - ours).abs().amax(-1).float()[far]
                ties += far.sum().item()
            worst = max(worst, difference.max().item())
        self.report(name, worst if ties <= 0.02 * sum(lengths) else math.nan)

    def generation(self, name, model, ids):
        """Greedy tokens with and without a cache, and the logits with a cache filled in chunks."""
        import torch

        prompt = ids[None, :21]
        tokens = {use: model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=40,
                                      eos_token_id=None, do_sample=False, use_cache=use) for use in (True, False)}
        self.report(f"{name}: tokens with and without cache", float((tokens[True] != tokens[False]).sum()), 0)
        whole = model(tokens[True]).logits
        cache, steps, at = None, [], 0
        for size in [7, 1, 5] + [1] * (tokens[True].shape[1] - 13):  # chunks that start and end within blocks
            out = model(tokens[True][:, at:at + size], **{cache_name(): cache}, use_cache=True)
            cache, at = out[cache_name()], at + size
            steps.append(out.logits)
        self.report(f"{name}: logits with cache", (torch.cat(steps, 1) - whole).abs().max().item())

    def padded_batch(self, name, model, ids):
        """Sequences of several lengths, left-padded: logits and greedy tokens equal those of each sequence alone."""
        import torch

        lengths, width = (1, 6, 30, 47, 83), 83
        batch = torch.full((len(lengths), width), 256)
        mask = torch.zeros_like(batch)
        for i, n in enumerate(lengths):
            batch[i, width - n:], mask[i, width - n:] = ids[i:i + n], 1
        logits = model(batch, attention_mask=mask).logits
        tokens = model.generate(batch, attention_mask=mask, max_new_tokens=20, eos_token_id=None, do_sample=False)
        worst, different = 0.0, 0
        for i, n in enumerate(lengths):
            row = ids[None, i:i + n]
            worst = max(worst, (model(row).logits[0] - logits[i, width - n:]).abs().max().item())
            alone = model.generate(row, attention_mask=torch.ones_like(row), max_new_tokens=20, eos_token_id=None,
                                   do_sample=False)
            different += int((alone[0, n:] != tokens[i, width:]).sum())
        self.report(f"{name}: left-padded logits", worst)
        self.report(f"{name}: left-padded tokens", float(different), 0)

    def packed_documents(self, name, model, ids):
        """Documents in one sequence, with position_ids that return to 0: each has the logits that it has alone."""
        import torch

        lengths = (1, 6, 4, 5, 47, 1, 16, 83)
        documents = [ids[i:i + n] for i, n in enumerate(lengths)]
        row = torch.cat(documents)[None]
        positions = torch.cat([torch.arange(n) for n in lengths])[None]
        alone = torch.cat([model(document[None]).logits[0] for document in documents])
        self.report(f"{name}: logits of packed documents",
                    (model(row, position_ids=positions).logits[0] - alone).abs().max().item())
        one = model(row.flip(1)).logits[0]
        both = model(torch.cat([row, row.flip(1)]),  # one document in the second sequence
                     position_ids=torch.cat([positions, torch.arange(row.shape[1])[None]])).logits
        self.report(f"{name}: logits of packed documents in a batch",
                    max((both[0] - alone).abs().max().item(), (both[1] - one).abs().max().item()))
        mask = torch.ones_like(row)
        mask[0, :2] = 0
        for what, keywords in (("padding on the left", {"attention_mask": mask}),
                               ("a cache", {cache_name(): model(row[:, :1], use_cache=True)[cache_name()],
                                            "attention_mask": torch.ones(1, row.shape[1] + 1)})):
            self.raises(f"{name}: packed documents with {what}", ValueError, "several documents in a sequence",
                        lambda keywords=keywords: model(row, position_ids=positions, **keywords))
        self.raises(f"{name}: position_ids that go back", ValueError, "expected 0 where a document begins",
                    lambda: model(row, position_ids=positions.clamp(min=1)))

    def loss(self, name, model, ids):
        import torch

        labels = ids[None, :60].clone()
        labels[0, 10:20] = -100
        out = model(ids[None, :60], labels=labels)
        targets = labels[0, 1:]
        losses = -out.logits[0, :-1].log_softmax(-1)[torch.arange(59), targets.clamp(min=0)]
        self.report(f"{name}: loss", abs(out.loss.item() - losses[targets != -100].mean().item()), 1e-5)

    def overrides(self, case, unchanged, exported, mode, ids):
        """Other budgets and scalings, given to transformers by keyword and to this program in config.json. Each must
        change the logits, or the comparison would prove nothing."""
        from transformers import AutoModelForCausalLM

        before = unchanged(ids[None]).logits
        for change in ({"block_counts": 1}, {"block_counts": 100}, {"block_size": 7, "block_counts": 2},
                       {"rope_scaling": {**LLAMA3, "factor": 8.0}}):
            model = AutoModelForCausalLM.from_pretrained(exported, trust_remote_code=True, inference_mode=mode,
                                                         **json.loads(json.dumps(change))).eval()
            changed = self.directory / "changed"
            changed.mkdir(exist_ok=True)
            config = json.loads((exported / "config.json").read_text())
            (changed / "config.json").write_text(json.dumps({**config, **change}))
            (changed / "model.safetensors").unlink(missing_ok=True)
            (changed / "model.safetensors").symlink_to(exported / "model.safetensors")
            text = ", ".join(f"{key} {value if isinstance(value, int) else 'llama3'}" for key, value in change.items())
            self.compare(f"{case} {mode}: {text}", model, changed, mode, ids, [1, 50, 133])
            chunks = case == "ssa-reference" and "block_counts" in change  # its chunks are block_size / 2 at any budget
            if not chunks and (model(ids[None]).logits - before).abs().max() < 100 * TOLERANCE:
                self.report(f"{case} {mode}: {text} changes nothing", math.nan)

    def saved_again(self, case, model, ids):
        """This program reads what transformers saves of a loaded model."""
        saved = self.directory / "saved" / case
        model.save_pretrained(saved)
        self.compare(f"{case}: saved by transformers, read here", model, saved, model.config.inference_mode, ids, [77])

    def sharded(self, case, model):
        """Weights split over several files are equal bit for bit."""
        from transformers import AutoModelForCausalLM

        directory = self.models / "sharded" / case
        same = AutoModelForCausalLM.from_pretrained(directory, trust_remote_code=True).state_dict()
        different = sum(not weight.equal(same[name]) for name, weight in model.state_dict().items())
        shards = len(list(directory.glob("model-*-of-*.safetensors")))
        self.report(f"{case}: weights from {shards} shards", different if shards > 1 else math.nan, 0)

    def raises(self, name, kind, text, call):
        """The call must fail, with an error of this kind that has this text."""
        try:
            call()
            problem = "no error"
        except kind as error:
            problem = "" if text in str(error) else str(error)
        if problem:
            print(f"{name}: {problem}")
        self.report(name, math.nan if problem else 0, 0)

    def arguments(self, name, model, exported, ids):
        """What is supported gives what it promises; what is not is refused."""
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, StaticCache

        row, other = ids[None, :40], cache_name()
        plain = model(row)
        for call in (model, model.model):
            self.raises(f"{name}: unknown keyword argument", TypeError, "past_key_value'",
                        lambda call=call: call(row, past_key_value=None))
            self.raises(f"{name}: output_attentions", ValueError, "output_attentions is not supported",
                        lambda call=call: call(row, output_attentions=True))
        self.raises(f"{name}: unknown argument of generate()", (TypeError, ValueError), "past_key_value",
                    lambda: model.generate(row, past_key_value=1, max_new_tokens=2))
        tokenizer = AutoTokenizer.from_pretrained(exported, trust_remote_code=True)
        free = model.generate(row, max_new_tokens=6)
        stopped = model.generate(row, max_new_tokens=6, stop_strings=["\n"], tokenizer=tokenizer)
        self.report(f"{name}: stop_strings", 0 if torch.equal(stopped, free[:, :stopped.shape[1]]) else math.nan, 0)
        mask = torch.ones_like(row)
        mask[0, 10] = 0
        self.raises(f"{name}: mask with a hole", ValueError, "padding on the left",
                    lambda: model(row, attention_mask=mask))
        self.raises(f"{name}: static cache", ValueError, "static cache",
                    lambda: model(row, **{other: StaticCache(config=model.config, max_batch_size=1, max_cache_len=64)}))
        self.raises(f"{name}: no input", ValueError, "input_ids or inputs_embeds", lambda: model())
        mask = torch.ones_like(row)
        mask[0, 30:] = 0  # padding on the right changes nothing before it
        self.report(f"{name}: right-padded logits",
                    (model(row, attention_mask=mask).logits[:, :30] - plain.logits[:, :30]).abs().max().item(), 0)
        states = model(row, output_hidden_states=True).hidden_states
        good = len(states) == 3 and torch.equal(states[0], model.model.embed_tokens(row)) and \
            torch.equal(model.lm_head(states[-1]), plain.logits)
        self.report(f"{name}: hidden states", 0 if good else math.nan, 0)
        first = model(row, return_dict=False, use_cache=False)
        self.report(f"{name}: return_dict=False", 0 if isinstance(first, tuple) and torch.equal(first[0], plain.logits)
                    else math.nan, 0)
        ignored = model.config.keys_to_ignore_at_inference  # by the Trainer, which cannot gather a cache
        self.report(f"{name}: the Trainer ignores the cache", 0 if other in plain and other in ignored else math.nan, 0)
        embeds = model(inputs_embeds=model.model.embed_tokens(row)).logits
        self.report(f"{name}: inputs_embeds", (embeds - plain.logits).abs().max().item(), 0)
        eager = AutoModelForCausalLM.from_pretrained(exported, trust_remote_code=True, attn_implementation="eager",
                                                     inference_mode=model.config.inference_mode).eval()
        self.report(f"{name}: attn_implementation eager", (eager(row).logits - plain.logits).abs().max().item())
        for kind in ("flash_attention_2", "flex_attention"):
            self.raises(f"{name}: attn_implementation {kind}", (ValueError, ImportError), "", lambda kind=kind: (
                AutoModelForCausalLM.from_pretrained(exported, trust_remote_code=True, attn_implementation=kind)(row)))

    def pipeline(self, name, model, tokenizer):
        """Texts of several lengths in one batch are continued as alone."""
        from transformers import pipeline

        texts = ["def main():", "x", "import argparse and more words than the others have"]
        one = pipeline("text-generation", model=model, tokenizer=tokenizer)
        options = {"do_sample": False, "max_new_tokens": 12, "return_full_text": False}
        alone = [one(text, **options)[0]["generated_text"] for text in texts]
        batch = [made[0]["generated_text"] for made in one(texts, batch_size=3, **options)]
        self.report(f"{name}: batched pipeline", sum(a != b for a, b in zip(alone, batch)), 0)

    def rows(self):
        """Two rows of one document, as (name, tokens, labels, positions, keys of ssa_train's config)."""
        import torch

        rows = torch.tensor([[(7 * i * i + 31 * i * r + r) % 251 % 95 + 32 for i in range(127)] + [256]
                             for r in (1, 2)])
        return "rows", [row[:-1] for row in rows.tolist()], rows, rows, None, []

    def packed_rows(self):
        """Two rows of several documents, packed as ssa_train does with a document mask: see rows()."""
        import torch

        lengths = ((4, 2, 26, 5, 13, 61), (90, 30))  # with the end-of-text token
        documents, ids, labels, positions = [], [], [], []
        for row in lengths:
            at = len(ids) + 128  # the end of the row
            for n in row:
                documents.append([(7 * i * i + 31 * i * n + n) % 251 % 95 + 32 for i in range(n - 1)])
                padding = -n % 4  # blocks of 4 tokens
                ids += documents[-1] + [256] + [256] * padding
                labels += [-100] + (documents[-1] + [256])[1:] + [-100] * padding
                positions += range(n + padding)
            for column in (ids, labels):
                column += [256 if column is ids else -100] * (at - len(column))
            positions += range(positions[-1] + 1, positions[-1] + 1 + at - len(positions))
        tensors = (torch.tensor(column).view(2, 128) for column in (ids, labels, positions))
        return "documents", documents, *tensors, ["data.document_mask=true"]

    def training(self, case, exported, rows):
        """Losses and gradient norm of a training step, under either output, are those of ssa_train; with gradient
        checkpointing too. rows: as from rows()."""
        import torch
        from transformers import AutoModelForCausalLM

        method = CASES[case][0]
        what, documents, ids, labels, positions, keys = rows
        text = self.directory / f"{what}.jsonl"
        data = self.directory / what
        if not data.exists():
            text.write_text("".join(json.dumps({"text": "".join(map(chr, document))}) + "\n" for document in documents))
            run([self.build / "ssa_tokenize", "--tokenizer", "bytes", "--input", text, "--output", data])
        for stream in ("full", "sparse") if method == "ssa" else (None,):
            probability = 1.0 if stream == "full" else 0.0
            output = self.directory / "step" / case / what / str(stream)
            run([self.build / "ssa_train", "--config", self.models / f"{case}.json", "--device", "cpu", *sum((
                ["--set", text] for text in (
                    f"init_from={exported}", f"output_dir={output}", f"data.path={data}", "data.shuffle=false",
                    "train.per_device_train_batch_size=2", "train.max_steps=1",
                    f"attention.full_stream_probability={probability}",
                    f"attention.selection={CASES[case][3].get('selection', 'exact')}", *keys)), [])])
            ours = json.loads((output / "metrics.jsonl").read_text().splitlines()[0])
            gradients = []
            for checkpointing in (None, True, False):  # None: off; else use_reentrant
                keywords = {"alignment_weight": 10.0, "full_stream_probability": probability} if stream else {}
                model = AutoModelForCausalLM.from_pretrained(exported, trust_remote_code=True, **keywords).train()
                if checkpointing is not None:
                    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": checkpointing})
                with torch.enable_grad():
                    out = model(ids, labels=labels, position_ids=positions)
                    out.loss.backward()
                # A branch without a gradient has zeros here: the gates of a method that does not use them.
                gradients.append({name: weight.grad.clone() for name, weight in model.named_parameters()
                                  if weight.grad is not None})
                if checkpointing is not None:
                    worst = max((gradients[0][n] - g).abs().max().item() for n, g in gradients[-1].items())
                    same = gradients[0].keys() == gradients[-1].keys()
                    self.report(f"{case} {stream or method}: gradient checkpointing, {what}",
                                worst if same else math.nan, 1e-6)
                    continue
                norm = math.sqrt(sum(g.double().pow(2).sum().item() for g in gradients[0].values()))
                name = f"{case} {stream or method}: training, {what}"
                self.report(f"{name}: loss", abs(out.loss.item() / ours["loss"] - 1), 1e-5)
                self.report(f"{name}: gradient norm", abs(norm / ours["grad_norm"] - 1), 1e-4)
                if stream:
                    self.report(f"{name}: alignment loss", abs(out.alignment_loss.item() / ours["alignment_loss"] - 1),
                                1e-4)

    def case(self, case):
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        run_directory, exported = self.models / "runs" / case, self.models / "exported" / case
        tokenizer = AutoTokenizer.from_pretrained(exported, trust_remote_code=True)
        text = "Sparse attention, d\u00e9j\u00e0 vu \U0001f642\n\x00end"
        ids = tokenizer(text).input_ids
        good = ids == list(text.encode()) and tokenizer.decode(ids) == text and tokenizer.eos_token_id == 256
        self.report(f"{case}: tokenizer", 0 if good else math.nan)
        ids = torch.randint(0, 257, (300,), generator=torch.Generator().manual_seed(len(case)))
        modes = ["sparse"] if CASES[case][0] == "nsa" else ["sparse", "full"]
        for mode in modes:
            model = AutoModelForCausalLM.from_pretrained(exported, trust_remote_code=True, inference_mode=mode).eval()
            name = f"{case} {mode}"
            self.compare(f"{name}: logits, {len(self.lengths)} lengths", model, run_directory, mode, ids, self.lengths)
            self.generation(name, model, ids)
            self.padded_batch(name, model, ids)
            self.packed_documents(name, model, ids)
            self.pipeline(name, model, tokenizer)
            self.loss(name, model, ids)
            self.arguments(name, model, exported, ids)
            if mode == "sparse":
                self.overrides(case, model, exported, mode, ids)
                self.saved_again(case, model, ids)
                self.sharded(case, model)
        self.training(case, exported, self.rows())
        self.training(case, exported, self.packed_rows())


def check_version(build, models, lengths, cases, results_file):
    """All checks in the transformers that Python finds. Returns the number of those that failed."""
    import torch
    import transformers

    torch.set_grad_enabled(False)
    torch.set_num_threads(1)  # the models are too small for several threads
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    print(f"torch {torch.__version__}, transformers {transformers.__version__}; the largest difference of each check")
    with tempfile.TemporaryDirectory() as name:
        os.environ["HF_MODULES_CACHE"] = str(Path(name) / "modules")
        check = Check(build, Path(name), models, lengths)
        for case in cases:
            check.case(case)
    if results_file:
        Path(results_file).write_text(json.dumps({"version": transformers.__version__, "results": check.results}))
    return sum(not worst <= limit for _, worst, limit in check.results)


def install(version, packages):
    """The directory of packages with this version of transformers."""
    directory = Path(packages) / version
    if not directory.exists() or version == "newest":
        wanted = "transformers" if version == "newest" else f"transformers=={version}"
        run([sys.executable, "-m", "pip", "install", "--quiet", "--upgrade", "--target", directory, wanted])
    return directory


def print_table(columns):
    """A row per kind of check, a column per version: checks and largest difference, or those that failed."""
    rows = collections.defaultdict(lambda: collections.defaultdict(list))
    for column in columns:
        for name, worst, limit in column["results"]:
            kind = name.split(": ")[1]
            kind = "overrides" if kind.startswith(("block_", "rope_scaling")) else kind.split(",")[0]
            kind = "weights from shards" if kind.startswith("weights from") else kind
            rows[kind][column["version"]].append((worst, limit))
    versions = [column["version"] for column in columns]
    print("| check | " + " | ".join(versions) + " |\n|---" + "|---" * len(versions) + "|")
    for kind, by_version in rows.items():
        cells = []
        for version in versions:
            checks = by_version[version]
            failed = sum(not worst <= limit for worst, limit in checks)
            worst = max((worst for worst, _ in checks), default=0)
            text = "" if max((limit for _, limit in checks), default=0) == 0 else f", {worst:.1e}"
            cells.append(f"{failed} of {len(checks)} FAILED" if failed else f"{len(checks)} ok{text}")
        print(f"| {kind} | " + " | ".join(cells) + " |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default="build", metavar="DIR",
                        help="build directory with the programs in bin/ (default: %(default)s)")
    parser.add_argument("--lengths", default="1:300", metavar="FIRST:LAST[:STEP]",
                        help="lengths in tokens at which logits are compared (default: %(default)s)")
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES), metavar="NAME",
                        help="models to check: " + ", ".join(CASES) + " (default: all)")
    parser.add_argument("--versions", metavar="VERSION,...",
                        help="versions of transformers to check with; newest is the newest on PyPI (default: the installed one)")
    parser.add_argument("--packages", default="build/transformers", metavar="DIR",
                        help="where --versions installs them (default: %(default)s)")
    parser.add_argument("--models", help=argparse.SUPPRESS)  # made by the call with --versions
    parser.add_argument("--results", help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    needed = ["torch"] if args.versions else ["torch", "transformers"]
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        print(f"check_export.py: skipped: needs {' and '.join(missing)}")
        sys.exit(77)
    first, last, *step = map(int, args.lengths.split(":"))
    lengths = list(range(first, last + 1, *step))
    build = Path(args.build).resolve() / "bin"
    if args.models:
        sys.exit(check_version(build, Path(args.models), lengths, args.case, args.results) > 0)
    with tempfile.TemporaryDirectory() as name:
        models = Path(name)
        make_models(models, args.case, build)
        if not args.versions:
            failures = check_version(build, models, lengths, args.case, args.results)
            if failures:
                sys.exit(f"check_export.py: {failures} checks failed")
            return
        columns, failed = [], []
        for version in args.versions.split(","):
            packages = install(version, args.packages)
            results = models / "results.json"
            results.unlink(missing_ok=True)
            code = subprocess.run([sys.executable, __file__, "--build", args.build, "--lengths", args.lengths,
                                   "--models", models, "--results", results, "--case", *args.case],
                                  env={**os.environ, "PYTHONPATH": str(packages)}).returncode
            if results.exists():
                columns.append(json.loads(results.read_text()))
            if code:
                failed.append(version)
        print_table(columns)
        if failed:
            sys.exit(f"check_export.py: failed with transformers {', '.join(failed)}")


if __name__ == "__main__":
    main()
