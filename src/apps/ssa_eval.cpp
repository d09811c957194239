// ssa_eval: evaluates a trained model under sparse and full attention. The command line; the work is in src/eval.
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "ssa/base/command_line.h"
#include "ssa/base/file.h"
#include "ssa/base/program.h"
#include "ssa/comm/comm.h"
#include "ssa/config/config.h"
#include "ssa/eval/attention_report.h"
#include "ssa/eval/dataset_loss.h"
#include "ssa/eval/forward_pass.h"
#include "ssa/eval/fp8_errors.h"
#include "ssa/eval/generate.h"
#include "ssa/eval/generate_until.h"
#include "ssa/eval/generation_task.h"
#include "ssa/eval/needle.h"
#include "ssa/eval/position_loss.h"
#include "ssa/eval/report.h"
#include "ssa/eval/run_task.h"
#include "ssa/eval/setting.h"
#include "ssa/eval/task.h"
#include "ssa/eval/text_encoder.h"
#include "ssa/train/run_log.h"

namespace {

using namespace ssa;

/// Sequences without --limit.
constexpr std::int64_t kAttentionRows = 64, kFp8Rows = 8;

constexpr const char* kFooter =
    R"(Examples:
  ssa_eval --model runs/tiny --data data/tiny/eval --block-counts 2,4,8
  ssa_eval --model runs/tiny --generate "The function" --temperature 0.8
  ssa_eval --model models/ssa-1b --tasks arc_easy,piqa --task-dir tasks \
    --num-fewshot 5 --seeds 1,2,3 --output out.json

Under mpirun the work is shared by the ranks.
Exit code: 0 done, 1 failed, 2 wrong usage)";

struct Arguments {
  std::string method, selection, document_mask;  ///< empty: as the model's files say
  std::string model, data, tokenizer, task_dir, output, device = "auto";
  std::vector<std::string> texts, tasks;
  eval::Overrides overrides;
  std::int64_t max_length = 0, stride = 0, rows = 8, num_fewshot = 0;
  std::vector<std::int64_t> seeds = {1234};
  std::optional<std::int64_t> limit;
  std::int64_t min_document_tokens = 0;
  bool log_samples = false, attention_stats = false, fp8_errors = false, needle = false, loss_by_position = false;
  std::int64_t sink_tokens = 4;
  eval::NeedleOptions needles;
  std::optional<std::string> prompt;
  eval::GenerateOptions generation;
  std::string truncation;  ///< empty: left
};

/// False when help was printed.
bool parse(int argc, char** argv, Arguments& a) {
  CommandLine line({.program = "ssa_eval",
                    .usage = "--model DIR WHAT... [options]",
                    .summary = "Evaluates a trained model under sparse and full attention and several budgets.",
                    .footer = kFooter});
  line.add_option("--model", a.model,
                  "a run's output_dir (its newest checkpoint is taken), a checkpoint, or a Hugging Face directory")
      ->option_text("DIR")
      ->required();

  line.add_option("--method", a.method,
                  "the attention method, of a Hugging Face directory that names none, as the published ones")
      ->option_text("ssa|full|moba|nsa");
  line.add_option("--selection", a.selection, "how its blocks are selected; the published checkpoints need reference")
      ->option_text("exact|reference");

  line.option_defaults()->group("What to evaluate");
  CLI::Option* data = line.add_option("--data", a.data,
                                      "loss and perplexity per token of a dataset that ssa_tokenize wrote with the "
                                      "model's tokenizer")
                          ->option_text("DATASET");
  line.add_option("--document-mask", a.document_mask,
                  "whether no token of --data attends to another document, as with data.document_mask (default: as "
                  "the run was trained; off for a Hugging Face directory)")
      ->option_text("on|off");
  line.add_flag("--loss-by-position", a.loss_by_position,
                "the loss of --data also by the number of tokens of its document that a token has before it, in "
                "ranges of powers of two")
      ->needs(data);
  CLI::Option* text =
      line.add_option(
              "--text", a.texts,
              "word and byte perplexity and bits per byte of text files, one document each; of JSON lines "
              "(.jsonl, .ndjson, .json), the field text of each line; a directory stands for its .txt, .jsonl and "
              ".ndjson files")
          ->option_text("FILE...");
  CLI::Option* tasks =
      line.add_list("--tasks", a.tasks,
                    "tasks of lm-evaluation-harness, with its prompts and scores: arc_easy, arc_challenge, piqa, "
                    "hellaswag, lambada_openai, lambada_standard, wikitext; the long-context tasks of RULER "
                    "(niah_single_1 ..., or ruler for all 13) and LongBench (longbench_hotpotqa ..., or longbench for "
                    "the 16 English and code tasks); each as NAME, with its file in --task-dir, or as NAME=FILE; "
                    "separated by commas")
          ->option_text("LIST");
  line.add_flag(
      "--attention-stats", a.attention_stats,
      "per layer and head, on sequences of --data or else --text: entropy, fraction of the probability in the "
      "selected blocks and on the first tokens, distance of the sparse output from the full output");
  line.add_flag("--fp8-errors", a.fp8_errors,
                "per layer, on sequences of --data or else --text: relative error of the products of the linear layers "
                "in FP8, forward and backward");
  CLI::Option* needle = line.add_flag("--needle", a.needle,
                                      "needle in a haystack: find a number that one sentence of a long text states");
  CLI::Option* generate =
      line.add_option_function<std::string>(
              "--generate", [&a](const std::string& prompt) { a.prompt = prompt; }, "continue a text, on rank 0")
          ->option_text("PROMPT");
  line.may_be_empty(generate);

  line.option_defaults()->group("How");
  line.add_option("--mode", a.overrides.mode,
                  "sparse: the selected blocks (for nsa also its other branches); full: full causal attention; both "
                  "(default; only sparse for nsa, which has no full attention). --generate takes one of the first "
                  "two, by default sparse, or full for a model of method full")
      ->option_text("sparse|full|both");
  line.add_list("--block-counts", a.overrides.block_counts,
                "blocks that each query attends to, instead of the model's: a number, or several as in 8,16,32", 1)
      ->option_text("LIST");
  line.add_option("--block-size", a.overrides.block_size, "tokens per block, instead of the model's")
      ->option_text("N")
      ->transform(integer(1));
  line.add_option("--rope-scaling", a.overrides.rope_scaling,
                  "scale the rotary frequencies by this factor as llama3 does, for texts longer than in "
                  "training")
      ->option_text("F")
      ->check(number("a number above 0", [](double factor) { return factor > 0; }));
  CLI::Option* positions =
      line.add_option("--original-positions", a.overrides.original_positions,
                      "for --rope-scaling: positions that the model was trained on (default: those of its own scaling, "
                      "or else max_position_embeddings)")
          ->option_text("N")
          ->transform(integer(1));
  line.add_option("--max-length", a.max_length,
                  "longest input of the model in tokens (default: max_position_embeddings; with --data at most 2048)")
      ->option_text("N")
      ->transform(integer(1));
  line.add_option("--stride", a.stride,
                  "tokens by which the window over a long text moves (default: --max-length, windows without overlap)")
      ->option_text("N")
      ->transform(integer(1));
  line.add_option("--min-document-tokens", a.min_document_tokens,
                  "for --data: shorter documents are left out; their end-of-text token counts")
      ->option_text("N")
      ->transform(integer(0))
      ->needs(data);
  line.add_option("--truncation", a.truncation,
                  "what a task of generated answers loses of a prompt that does not fit --max-length: left as "
                  "lm-evaluation-harness, or middle as LongBench's own program")
      ->option_text("left|middle")
      ->default_str("left");
  line.add_option(
          "--tokenizer", a.tokenizer,
          "as for ssa_tokenize (default: the tokenizer of the Hugging Face directory, or bytes if the run was trained "
          "on bytes)")
      ->option_text("T");
  line.add_option("--task-dir", a.task_dir,
                  "directory with NAME.jsonl or NAME_test.jsonl, and NAME_train.jsonl for few-shot examples")
      ->option_text("DIR");
  line.add_option("--num-fewshot", a.num_fewshot, "examples before each question")
      ->option_text("N")
      ->capture_default_str()
      ->transform(integer(0));
  line.add_list("--seeds", a.seeds, "of the few-shot draws; with several, means and standard deviations are reported",
                0)
      ->option_text("LIST");
  line.add_option("--limit", a.limit,
                  "only the first N documents of a task or of --text, the first N sequences for --attention-stats (64 "
                  "by default) and --fp8-errors (8)")
      ->option_text("N")
      ->transform(integer(1));
  line.add_option("--sink-tokens", a.sink_tokens, "first tokens of a sequence for --attention-stats")
      ->option_text("N")
      ->capture_default_str()
      ->transform(integer(1));
  CLI::Option* output =
      line.add_option("--output", a.output, "write the results as lm-evaluation-harness's JSON")->option_text("FILE");
  line.add_flag("--log-samples", a.log_samples, "add each document's requests and log-likelihoods to --output")
      ->needs(output);
  CLI::Option* lengths =
      line.add_list("--lengths", a.needles.lengths, "needle: text lengths in tokens", 1)->option_text("LIST");
  needle->needs(lengths);
  line.add_list("--depths", a.needles.depths, "needle: positions of the number in the text, percent", 0, 100)
      ->option_text("LIST");
  line.add_option("--samples", a.needles.samples, "needle: texts per length and depth")
      ->option_text("N")
      ->capture_default_str()
      ->transform(integer(1));
  line.add_option("--max-new-tokens", a.generation.max_new_tokens, "tokens to generate")
      ->option_text("N")
      ->capture_default_str()
      ->transform(integer(1));
  eval::Sampling& sampling = a.generation.sampling;
  line.add_option("--temperature", sampling.temperature, "0 takes the most probable token; above 0, tokens are drawn")
      ->option_text("X")
      ->capture_default_str()
      ->check(number("a number from 0", [](double temperature) { return temperature >= 0; }));
  line.add_option("--top-p", sampling.top_p, "draw from the most probable tokens whose probabilities add up to P")
      ->option_text("P")
      ->capture_default_str()
      ->check(number("a number above 0, at most 1", [](double p) { return 0 < p && p <= 1; }));
  line.add_option("--seed", sampling.seed, "of the drawn tokens and the needle's texts")
      ->option_text("N")
      ->capture_default_str()
      ->transform(integer(0));
  line.add_option("--rows", a.rows,
                  "sequences computed at a time; on a GPU more of short texts and of the choices of tasks, up to the "
                  "tokens of N sequences of 2048")
      ->option_text("N")
      ->capture_default_str()
      ->transform(integer(1));
  line.add_option("--device", a.device, "auto takes a GPU if there is one")
      ->option_text("auto|cuda|cpu")
      ->capture_default_str();
  if (!line.read(argc, argv)) return false;

  const auto given = [](const CLI::Option* option) { return option->count() > 0; };
  const auto any = [&](std::initializer_list<const CLI::Option*> options) {
    return std::any_of(options.begin(), options.end(), given);
  };
  if (!any({data, text, tasks, needle, generate}))
    line.fail("nothing to evaluate: --data, --text, --tasks, --needle or --generate is needed");
  if (given(positions) && a.overrides.rope_scaling == 0) line.fail("--original-positions needs --rope-scaling");
  if (a.generation.sampling.top_p < 1 && a.generation.sampling.temperature == 0)
    line.fail("--top-p needs a --temperature above 0");
  if (a.attention_stats && !any({data, text})) line.fail("--attention-stats needs --data or --text");
  if (a.fp8_errors && !any({data, text})) line.fail("--fp8-errors needs --data or --text");
  if (a.overrides.mode == "both" && given(line.get_option("--mode")) && !any({data, text, tasks, needle}))
    line.fail("--mode both: --generate takes sparse or full");
  // An option without an effect is a mistake of the user's.
  struct Use {
    std::vector<std::string> options;
    bool used;
    const char* needs;
  };
  const bool selects = a.overrides.mode != "full";
  const Use uses[] = {
      {{"--block-counts"}, selects, "--mode sparse or both"},
      {{"--block-size"}, selects || a.attention_stats, "--mode sparse or both, or --attention-stats"},
      {{"--tokenizer"}, any({text, tasks, needle, generate}), "--text, --tasks, --needle or --generate"},
      {{"--rows"}, any({data, text, tasks, needle}), "--data, --text, --tasks or --needle"},
      {{"--document-mask"}, given(data), "--data"},
      {{"--stride"}, any({text, tasks}), "--text or --tasks"},
      {{"--max-length"}, any({data, text, tasks}), "--data, --text or --tasks"},
      {{"--task-dir", "--num-fewshot", "--seeds", "--truncation"}, given(tasks), "--tasks"},
      {{"--limit"},
       any({text, tasks}) || a.attention_stats || a.fp8_errors,
       "--tasks, --text, --attention-stats or --fp8-errors"},
      {{"--sink-tokens"}, a.attention_stats, "--attention-stats"},
      {{"--lengths", "--depths", "--samples"}, given(needle), "--needle"},
      {{"--max-new-tokens", "--temperature", "--top-p"}, given(generate), "--generate"},
      {{"--seed"},
       given(needle) || a.generation.sampling.temperature > 0,
       "--generate with a --temperature above 0, or --needle"},
      {{"--output"}, any({data, text, tasks, needle}), "--data, --text, --tasks or --needle"},
      {{"--log-samples"}, any({text, tasks}), "--tasks or --text"},
  };
  for (const Use& use : uses)
    for (const std::string& option : use.options)
      if (given(line.get_option(option)) && !use.used) line.fail(option, " needs ", use.needs);
  a.needles.rows = a.rows;
  a.needles.seed = sampling.seed;
  return true;
}

/// The value of `values` with this name; nullopt for no name.
template <class Value>
std::optional<Value> named(const char* option, const std::string& name, std::initializer_list<Value> values) {
  if (name.empty()) return std::nullopt;
  std::string names;
  for (const Value value : values) {
    if (name == name_of(value)) return value;
    names += concat(names.empty() ? "" : ", ", name_of(value));
  }
  fail_usage(option, " ", name, ", expected one of ", names);
}

ModelOptions model_options(const Arguments& a) {
  return {.method = named("--method", a.method, kMethods),
          .selection = named("--selection", a.selection, kBlockSelections)};
}

bool masks_documents(const Arguments& a, const ModelSource& source) {
  if (!a.document_mask.empty() && a.document_mask != "on" && a.document_mask != "off")
    fail_usage("--document-mask ", a.document_mask, ", expected on or off");
  return a.document_mask.empty() ? source.document_mask() : a.document_mask == "on";
}

/// Throws Error for an --output that cannot be written: before the evaluation, which may take hours.
void expect_output(const std::filesystem::path& file) {
  if (file.has_parent_path()) make_directories(file.parent_path());
  check_replaceable(file);
}

bool generates(const eval::Task& task) { return task.kind == eval::TaskKind::generation; }

eval::Truncation parse_truncation(const std::string& name) {
  if (name.empty() || name == "left") return eval::Truncation::left;
  if (name == "middle") return eval::Truncation::middle;
  fail_usage("--truncation ", name, ", expected left or middle");
}

/// Refuses the options of --tasks and --text that none of these tasks uses.
void expect_used(const Arguments& a, const std::vector<eval::Task>& tasks) {
  const auto any = [&](auto&& uses) { return std::any_of(tasks.begin(), tasks.end(), uses); };
  const auto rolling = [](const eval::Task& task) { return task.kind == eval::TaskKind::rolling; };
  const auto without_file = [](const std::string& task) { return task.find('=') == std::string::npos; };
  if (!a.truncation.empty() && !any(generates))
    fail_usage("--truncation ", a.truncation, ": no task of generated answers, expected one in --tasks");
  if (a.stride > 0 && !any(rolling)) fail_usage("--stride ", a.stride, ": no long text, expected wikitext or --text");
  if (a.num_fewshot > 0 && std::all_of(tasks.begin(), tasks.end(), rolling))
    fail_usage("--num-fewshot ", a.num_fewshot, ": no task with examples, expected one in --tasks");
  if (a.seeds.size() > 1 && a.num_fewshot == 0)
    fail_usage("--seeds: found ", a.seeds.size(), " seeds of few-shot draws, expected --num-fewshot above 0");
  if (!a.task_dir.empty() && std::none_of(a.tasks.begin(), a.tasks.end(), without_file))
    fail_usage("--task-dir ", a.task_dir, ": every task has its file, expected one as NAME alone");
}

/// The documents of --tasks and --text.
std::vector<eval::Task> load_tasks(const Arguments& a) {
  std::vector<eval::Task> tasks;
  for (const std::string& listed : a.tasks)
    for (const std::string& task : eval::tasks_of(listed)) {
      const std::size_t equals = task.find('=');
      const std::string name = task.substr(0, equals);
      const std::string file = equals == std::string::npos ? "" : task.substr(equals + 1);
      if (file.empty() && (equals != std::string::npos || a.task_dir.empty()))
        fail_usage("--tasks ", task, ": no file, expected ", name, "=FILE or --task-dir");
      tasks.push_back(eval::load_task(name, file, a.task_dir));
      if (generates(tasks.back()) && a.num_fewshot > 0)
        fail_usage("--num-fewshot ", a.num_fewshot, ": ", name, " has its examples in the prompt, expected 0");
    }
  if (!a.texts.empty()) tasks.push_back(eval::text_task(a.texts));
  expect_used(a, tasks);
  return tasks;
}

/// Refuses --block-counts and --block-size where full attention, which a model of method full generates with, is all
/// that runs.
void expect_sparse(const Arguments& a, const ModelSource& source, const eval::Setting& generating) {
  if (generating.sparse() || !a.data.empty() || !a.texts.empty() || !a.tasks.empty() || a.needle) return;
  const char* option = !a.overrides.block_counts.empty() ? "--block-counts" : "--block-size";
  if (!a.overrides.block_counts.empty() || a.overrides.block_size > 0)
    fail_usage(option, " needs --mode sparse: ", source.path().string(), " is a model of method ",
               name_of(source.method()), ", which --generate runs with full attention");
}

std::int64_t max_length_of(const Arguments& a, const eval::Setting& setting) {
  return a.max_length ? a.max_length : setting.model.max_position_embeddings;
}

eval::TaskOptions task_options(const Arguments& a, const eval::Setting& setting) {
  return {.rows = a.rows,
          .max_length = max_length_of(a, setting),
          .stride = a.stride,
          .num_fewshot = a.num_fewshot,
          .seeds = a.seeds,
          .limit = a.limit,
          .samples = a.log_samples};
}

/// The sequences of --attention-stats and --fp8-errors, at most `limit`.
std::vector<eval::TokenIds> sequences(const Arguments& a, const eval::Setting& setting,
                                      const eval::DatasetRows* dataset, eval::TextEncoder* encoder,
                                      std::int64_t limit) {
  if (dataset) return dataset->filled(limit);
  std::vector<eval::TokenIds> texts;
  for (const eval::Document& document : eval::text_task(a.texts).documents)
    texts.push_back(encoder->encode(document.query));
  return eval::rows_of(texts, max_length_of(a, setting), limit);
}

int run(int argc, char** argv) {
  Arguments a;
  if (!parse(argc, argv, a)) return kExitDone;
  const DeviceKind device = parse_device(a.device);
  const ModelSource source(a.model, model_options(a));
  const std::vector<eval::Setting> settings = eval::settings_of(source, a.overrides);
  const std::vector<eval::Task> tasks = load_tasks(a);
  const eval::Truncation truncation = parse_truncation(a.truncation);
  std::optional<eval::TextEncoder> encoder;
  if (!tasks.empty() || a.needle || a.prompt)
    encoder.emplace(a.tokenizer.empty() ? eval::find_tokenizer(source) : a.tokenizer, source);
  if (a.needle) eval::check_lengths(*encoder, a.needles);
  std::optional<eval::Setting> generating;
  if (a.prompt) {
    generating = eval::generation_setting(source, a.overrides);
    expect_sparse(a, source, *generating);
  }
  std::optional<eval::DatasetRows> dataset;
  std::vector<std::string> notes = source.notes();
  if (!a.data.empty()) {
    dataset.emplace(a.data, settings.front().model, a.max_length, masks_documents(a, source), a.min_document_tokens);
    if (std::string note = eval::expect_training_tokenizer(source, dataset->dataset()); !note.empty())
      notes.push_back(std::move(note));
  }

  const auto comm = make_comm(device);
  if (comm->rank() == 0)
    for (const std::string& note : notes) spdlog::warn(note);
  if (comm->rank() == 0 && !a.output.empty()) expect_output(a.output);
  Stream stream(device, comm->local_rank());
  stream.time_alternatives(false);  // most batches of texts have different lengths
  const eval::LoadedModel loaded(stream, source);
  eval::Report report({.model = source.path().string(),
                       .method = std::string(name_of(source.method())),
                       .device = name_of(device),
                       .rows = a.rows,
                       .max_length = max_length_of(a, settings.front()),
                       .seeds = a.seeds,
                       .limit = a.limit});
  if (generating && comm->rank() == 0) eval::generate(stream, loaded, *generating, *encoder, *a.prompt, a.generation);
  if (a.data.empty() && tasks.empty() && !a.needle) {
    finish_output();
    return kExitDone;
  }
  std::string more_tables;
  const auto rows = [&](const eval::Setting& setting, std::int64_t limit) {
    return sequences(a, setting, dataset ? &*dataset : nullptr, encoder ? &*encoder : nullptr, a.limit.value_or(limit));
  };
  if (a.fp8_errors) eval::expect_fp8_products(stream, settings.front().model, rows(settings.front(), kFp8Rows), a.rows);
  for (const eval::Setting& setting : settings) {
    report.begin(setting);
    {  // frees its memory before the next allocations
      eval::ForwardPass pass(stream, loaded, setting);
      stream.time_alternatives(true);  // all batches of --data have one shape
      if (dataset && a.loss_by_position) {
        const eval::PositionLoss losses = eval::position_loss(pass, *comm, *dataset, a.rows);
        report.add(eval::dataset_result(*dataset, losses.total()));
        report.attach("loss_by_position", eval::to_json(losses));
        more_tables += concat("\n", setting.name(), ", loss by position\n", eval::table(losses));
      } else if (dataset) {
        report.add(eval::dataset_loss(pass, *comm, *dataset, a.rows));
      }
      stream.time_alternatives(false);
      for (const eval::Task& task : tasks)
        if (!generates(task)) report.add(eval::run_task(pass, *comm, *encoder, task, task_options(a, setting)));
    }
    for (const eval::Task& task : tasks)
      if (generates(task))
        report.add(eval::run_generation_task(stream, *comm, loaded, setting, *encoder, task, task_options(a, setting),
                                             truncation));
    if (a.needle) report.attach("needle", eval::needle(stream, *comm, loaded, setting, *encoder, a.needles));
    if (a.attention_stats) {
      const eval::AttentionReport attention =
          eval::measure_attention(stream, *comm, loaded, setting, rows(setting, kAttentionRows), a.rows, a.sink_tokens);
      report.attach("attention", attention.json());
      more_tables += fmt::format("\nattention, {}, {} sequences of {} tokens\n{}", setting.name(), attention.rows,
                                 attention.tokens, attention.table());
    }
    if (a.fp8_errors) {
      const eval::Fp8Errors errors =
          eval::measure_fp8_errors(stream, *comm, loaded, setting, rows(setting, kFp8Rows), a.rows);
      report.attach("fp8_errors", errors.json());
      more_tables += fmt::format("\nerror of products in FP8, {}, {} sequences of {} tokens\n{}", setting.name(),
                                 errors.rows, errors.tokens, errors.table());
    }
  }
  if (comm->rank() != 0) return kExitDone;
  std::fputs((report.table() + more_tables).c_str(), stdout);
  if (!a.output.empty()) report.write(a.output);
  finish_output();
  return kExitDone;
}

}  // namespace

int main(int argc, char** argv) {
  ssa::log_to_stderr();
  return ssa::run_ranks([&] { return run(argc, argv); });
}
