#!/usr/bin/env python3
"""Writes answer_cases.jsonl: scores and prompts of lm-evaluation-harness's RULER and LongBench for small documents.

A line is a case of one of two forms:
  {"task", "document", "text", "scores": {metric: value}}    a generated text and its scores
  {"task", "document", "prompt", "until", "max_gen_toks"}    what the harness gives the model
Run by hand when a case is added; the tests need only what it wrote.

Example: pip install 'lm_eval[hf,ruler,longbench]==0.4.13' && python3 tests/eval/make_answer_cases.py
"""
import json
import os
import random
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
import compare_lm_eval as compare  # noqa: E402

draw = random.Random(3)
WORDS = ("the The a an A, river stone café CAFÉ naïve _x_ it's -- Ångström THE. 1 17 ٣ 2½ e.g. mill,mill owls 日本 "
         "Straße ﬁre İx end.").split()
CODE = ("def f(x):\n", "    return x + 1", "# note", "// c", "`", "for i in range(10):", "int a = 0;", "\t", "    ", "é = 1")


def text(count):
    return " ".join(draw.choice(WORDS) for _ in range(count))


def sentences(count):
    return "".join(text(draw.randrange(0, 9)) + draw.choice([".", ". ", ".. ", " ", "\n"]) for _ in range(count))


def code(count):
    return "\n".join(draw.choice(CODE) for _ in range(count))


def long_line(count):
    return "".join(draw.choice("aaaab bcd(),=xyzé") for _ in range(count))


def score_cases():
    """(task, document, text)"""
    for count in (0, 1, 1, 2, 3, 5, 8, 8, 20):
        yield "longbench_qasper", {"answers": [text(3), text(count)]}, f" {text(count)}\n"
    yield "longbench_qasper", {"answers": ["the a an"]}, "The"
    yield "longbench_qasper", {"answers": ["théa an-the the_a athe"]}, "thea the an athe a\u0301"
    for count in (0, 1, 2, 3, 5, 8):
        yield "longbench_gov_report", {"answers": [sentences(count + 1), sentences(count)]}, sentences(count)
    for answer in (".", ". .", "", "one two"):
        for prediction in ("", ".", "a . . b", "two one. one two"):
            yield "longbench_samsum", {"answers": [answer]}, prediction
    classes = ["Number", "Number of something", "Date", "Number", "of", "Date of birth", "thing"]
    for prediction in ("Number", " Type: Number of something\n", "Date", "Date of birth Number", "none", "thing of Number"):
        for answer in ("Number", "Number of something", "Date of birth", "other"):
            yield "longbench_trec", {"answers": [answer], "all_classes": classes}, prediction
    for prediction in ("17", "17 or 18, 17", "none", "١٧ 17", "3.17", "Paragraph 17", "x17y 017", "²3"):
        yield "longbench_passage_count", {"answers": ["17", "3"]}, prediction
        yield "longbench_passage_retrieval_en", {"answers": ["Paragraph x, Paragraph 17"]}, prediction
    for count in (0, 1, 2, 4):
        for _ in range(3):
            yield "longbench_lcc", {"answers": [draw.choice(CODE) + draw.choice(CODE)]}, code(count)
    for size in (1, 5, 40, 199, 200, 201, 260):  # from 200 code points the frequent ones start no match
        yield "longbench_lcc", {"answers": [long_line(size)]}, "\n \n" + long_line(60)
    yield "longbench_lcc", {"answers": ["x" * 250]}, "x" * 240 + "y"
    yield "longbench_lcc", {"answers": ["ab" * 120 + "c"]}, "ab" * 60 + "cab"
    for prediction in ("", " The 12\x0134 É é", "nothing", "\x1f\x0b12\n34", "STRASSE strasse straße"):
        for outputs in (["12"], ["12\n34", "É"], ["straße", "the", "zz"], ["", "NOTHING"]):
            yield "ruler_qa_squad" if len(outputs) > 2 else "niah_single_2", {"outputs": outputs, "max_length": 8192}, prediction


def scored(task, document, prediction):
    if "outputs" in document:
        from lm_eval.tasks.ruler import common_utils as ruler

        function = ruler.process_results_part if task == "ruler_qa_squad" else ruler.process_results
        values = {k: v for k, v in function(document, [prediction]).items() if v != -1}
        full = {"input": "x", **document}
    else:
        from lm_eval.tasks.longbench import metrics

        kinds = {"qasper": "qa_f1", "gov_report": "rouge", "samsum": "rouge", "trec": "classification", "lcc": "code_sim",
                 "passage_count": "count", "passage_retrieval_en": "retrieval"}
        values = getattr(metrics, f"get_{kinds[task.removeprefix('longbench_')]}_with_score")(document, [prediction])
        full = {"context": "x", "input": "x", **document}
    return {"task": task, "document": full, "text": prediction, "scores": values}


def prompt_cases():
    from lm_eval.tasks import TaskManager

    with tempfile.TemporaryDirectory() as temporary:
        os.environ["HF_HOME"] = temporary
        for task in compare.RULER:
            compare.write_lines(Path(temporary) / f"{task}.jsonl", [
                {"input": "Text {context} {{x}}", "outputs": ["a"], "length": 9, "max_length": 4096, "gen_prefix": "Now:"},
                {"input": "Text", "outputs": ["a"], "length": 4097, "answer_prefix": " Now:"},
                {"input": "Text\n", "outputs": ["a"], "length": 9, "max_length": 300, "gen_prefix": "Now"},
                {"input": "Text", "outputs": ["a"], "length": 32768}])
        for task in compare.GROUPS["longbench"] + compare.GROUPS["longbench_e"]:
            compare.write_lines(Path(temporary) / f"{task}.jsonl", [
                {"context": "One {question}\r\n {{two}} ", "input": " Who\n", "answers": ["Paragraph 2"], "all_classes": ["x"]}])
        for task in [*compare.RULER, *compare.GROUPS["longbench"], *compare.GROUPS["longbench_e"]]:
            compare.write_yaml(task, Path(temporary), Path(temporary))
        manager = TaskManager(include_path=temporary)
        for task in [*compare.RULER, *compare.GROUPS["longbench"], *compare.GROUPS["longbench_e"]]:
            loaded = manager.load([f"local_{task}"])["tasks"][f"local_{task}"]
            documents = (Path(temporary) / f"{task}.jsonl").read_text().splitlines()
            for document, read in zip(documents, loaded.eval_docs, strict=True):
                options = loaded.config.generation_kwargs
                yield {"task": task, "document": json.loads(document),
                       "prompt": loaded.fewshot_context(read, 0, gen_prefix=loaded.doc_to_prefix(read)),
                       "until": options["until"], "max_gen_toks": options["max_gen_toks"]}


def main():
    cases = [scored(*case) for case in score_cases()] + list(prompt_cases())
    compare.write_lines(Path(__file__).parent / "answer_cases.jsonl", cases)
    print(f"{len(cases)} cases")


if __name__ == "__main__":
    main()
