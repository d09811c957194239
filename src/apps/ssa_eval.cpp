// ssa_eval: what a trained model is worth, under sparse and full attention. The command line; the work is src/eval's.
#include <cstdio>
#include <optional>
#include <string>
#include <vector>

#include "ssa/base/command_line.h"
#include "ssa/comm/comm.h"
#include "ssa/eval/attention_report.h"
#include "ssa/eval/dataset_loss.h"
#include "ssa/eval/forward_pass.h"
#include "ssa/eval/generate.h"
#include "ssa/eval/needle.h"
#include "ssa/eval/report.h"
#include "ssa/eval/run_task.h"
#include "ssa/eval/setting.h"
#include "ssa/eval/task.h"
#include "ssa/eval/text_encoder.h"

namespace {

using namespace ssa;

constexpr const char* kHelp =
    R"(ssa_eval: evaluates a trained model, under sparse and full attention and several budgets

usage: ssa_eval --model DIR WHAT... [HOW...]

  --model DIR        a run's output_dir (its newest checkpoint is taken), a checkpoint, or a Hugging Face directory

what:
  --data DATASET     loss and perplexity a token of a directory written by ssa_tokenize with the model's tokenizer
  --text FILE...     word and byte perplexity, bits per byte of text files, a document each
  --tasks LIST       as lm-evaluation-harness asks and scores them: arc_easy, arc_challenge, piqa, hellaswag,
                     lambada_openai, lambada_standard, wikitext; a name, whose file is looked for in --task-dir, or
                     name=FILE; several with commas between them
  --attention-stats  by layer and head, on rows of --data or else --text: entropy, share of the probability in the
                     selected blocks and on the first tokens, distance of the sparse output from the full one
  --needle           asks for a number that one sentence of a long text names
  --generate PROMPT  continues a text, on rank 0

how:
  --mode WHAT        sparse: the selected blocks only (and nsa's other branches); full: full causal attention; both
                     (default; sparse alone for nsa, whose model has no full attention). --generate takes one: sparse if
                     not told, full for a model of the method full
  --block-counts L   blocks a token may select, in place of the model's: a number, or several as in 8,16,32
  --block-size N     tokens of a block, in place of the model's
  --rope-scaling F   llama3 scaling of the rotary frequencies by the factor F, for longer texts than the model was
                     trained on
  --max-length N     tokens the model sees at a time (default: max_position_embeddings; with --data at most 2048)
  --stride N         tokens that a window over a long text moves by (default: --max-length, windows side by side)
  --tokenizer T      as ssa_tokenize takes it (default: the Hugging Face directory's, or bytes when the run learned bytes)
  --task-dir DIR     holds NAME.jsonl or NAME_test.jsonl, and NAME_train.jsonl to draw few-shot examples from
  --num-fewshot N    examples before each question (default 0)
  --seeds LIST       of the draw of examples (default 1234); of several, means and deviations are reported
  --limit N          only the first N documents of a task, the first N rows for --attention-stats (there default 64)
  --sink-tokens N    first tokens of a row for --attention-stats (default 4)
  --output FILE      the results as JSON, in the shape of lm-evaluation-harness's
  --log-samples      each document's requests and log-likelihoods go into it
  --lengths LIST     of the needle's texts, tokens, as in 512,1024,2048
  --depths LIST      where in them the number stands, percent (default 0,25,50,75,100)
  --samples N        needle's texts for each length and depth (default 10)
  --max-new-tokens N to generate (default 128)
  --temperature X    0 takes the most probable token (default); above it, tokens are drawn
  --top-p P          draws from the most probable tokens that have the probability P together (default 1: from all)
  --seed N           of the drawn tokens and the needle's texts (default 42)
  --rows N           rows computed at a time (default 8)
  --device WHAT      auto: a GPU if there is one (default); cuda; cpu

examples:
  ssa_eval --model runs/tiny --data data/tiny/eval --block-counts 2,4,8
  ssa_eval --model runs/tiny --generate "The function" --temperature 0.8 --top-p 0.9
  ssa_eval --model models/ssa-1b --tasks arc_easy,piqa --task-dir tasks --num-fewshot 5 --seeds 1,2,3 --output out.json

Under mpirun the work is spread over the ranks.
exit code: 0 done, 1 failed, 2 wrong usage
)";

struct Arguments {
  std::string model, data, tokenizer, task_dir, output, device = "auto";
  std::vector<std::string> texts, tasks;
  eval::Overrides overrides;
  std::int64_t max_length = 0, stride = 0, rows = 8, num_fewshot = 0;
  std::vector<std::int64_t> seeds = {1234};
  std::optional<std::int64_t> limit;
  bool log_samples = false, attention_stats = false, needle = false;
  std::int64_t sink_tokens = 4;
  eval::NeedleOptions needles;
  std::optional<std::string> prompt;
  eval::GenerateOptions generation;
};

/// False when help was printed.
bool parse(int argc, char** argv, Arguments& a) {
  CommandLine line("ssa_eval", kHelp);
  line.text("--model", a.model);
  line.text("--data", a.data);
  line.files("--text", a.texts);
  line.list("--tasks", a.tasks);
  line.flag("--attention-stats", a.attention_stats);
  line.flag("--needle", a.needle);
  line.text("--generate", a.prompt);

  line.text("--mode", a.overrides.mode);
  line.list("--block-counts", a.overrides.block_counts, 1);
  line.whole("--block-size", a.overrides.block_size, 1);
  line.real("--rope-scaling", a.overrides.rope_scaling, "a number above 0", [](double f) { return f > 0; });
  line.whole("--max-length", a.max_length, 1);
  line.whole("--stride", a.stride, 1);
  line.text("--tokenizer", a.tokenizer);
  line.text("--task-dir", a.task_dir);
  line.whole("--num-fewshot", a.num_fewshot, 0);
  line.list("--seeds", a.seeds, 0);
  line.whole("--limit", a.limit, 1);
  line.whole("--sink-tokens", a.sink_tokens, 1);
  line.text("--output", a.output);
  line.flag("--log-samples", a.log_samples);
  line.list("--lengths", a.needles.lengths, 1);
  line.list("--depths", a.needles.depths, 0, 100);
  line.whole("--samples", a.needles.samples, 1);
  line.whole("--max-new-tokens", a.generation.max_new_tokens, 1);
  eval::Sampling& sampling = a.generation.sampling;
  line.real("--temperature", sampling.temperature, "a number from 0", [](double t) { return t >= 0; });
  line.real("--top-p", sampling.top_p, "a number above 0, at most 1", [](double p) { return 0 < p && p <= 1; });
  line.whole("--seed", sampling.seed, 0);
  line.whole("--rows", a.rows, 1);
  line.text("--device", a.device);
  if (!line.read(argc, argv)) return false;

  if (a.model.empty()) line.fail("--model DIR is missing");
  if (a.data.empty() && a.texts.empty() && a.tasks.empty() && !a.needle && !a.prompt)
    line.fail("nothing to evaluate: --data, --text, --tasks, --needle or --generate is needed");
  if (a.attention_stats && a.data.empty() && a.texts.empty()) line.fail("--attention-stats needs --data or --text");
  if (a.needle && a.needles.lengths.empty()) line.fail("--needle needs --lengths");
  if (a.log_samples && a.output.empty()) line.fail("--log-samples needs --output");
  a.needles.rows = a.rows;
  a.needles.seed = sampling.seed;
  return true;
}

/// The documents of --tasks and --text.
std::vector<eval::Task> load_tasks(const Arguments& a) {
  std::vector<eval::Task> tasks;
  for (const std::string& task : a.tasks) {
    const std::size_t equals = task.find('=');
    const std::string name = task.substr(0, equals);
    const std::string file = equals == std::string::npos ? "" : task.substr(equals + 1);
    if (file.empty() && a.task_dir.empty())
      fail_usage("--tasks ", task, ": no file, expected ", name, "=FILE or --task-dir");
    tasks.push_back(eval::load_task(name, file, a.task_dir));
  }
  if (!a.texts.empty()) tasks.push_back(eval::text_task(a.texts));
  return tasks;
}

std::int64_t max_length_of(const Arguments& a, const eval::Setting& setting) {
  return a.max_length ? a.max_length : setting.model.max_position_embeddings;
}

/// --attention-stats
eval::AttentionReport attention_report(const Arguments& a, Stream& stream, Comm& comm, const eval::LoadedModel& loaded,
                                       const eval::Setting& setting, const eval::DatasetRows* dataset,
                                       eval::TextEncoder* encoder) {
  constexpr std::int64_t kRows = 64;
  const std::int64_t limit = a.limit.value_or(kRows);
  std::vector<eval::TokenIds> rows;
  if (dataset) {
    rows = dataset->filled(limit);
  } else {
    std::vector<eval::TokenIds> texts;
    for (const eval::Document& document : eval::text_task(a.texts).documents)
      texts.push_back(encoder->encode(document.query));
    rows = eval::rows_of(texts, max_length_of(a, setting), limit);
  }
  return eval::measure_attention(stream, comm, loaded, setting, rows, a.rows, a.sink_tokens);
}

int run(int argc, char** argv) {
  Arguments a;
  if (!parse(argc, argv, a)) return kExitDone;
  const DeviceKind device = parse_device(a.device);
  const ModelSource source(a.model);
  const std::vector<eval::Setting> settings = eval::settings_of(source, a.overrides);
  const std::vector<eval::Task> tasks = load_tasks(a);
  std::optional<eval::TextEncoder> encoder;
  if (!tasks.empty() || a.needle || a.prompt)
    encoder.emplace(a.tokenizer.empty() ? eval::find_tokenizer(source) : a.tokenizer, source);
  if (a.needle) eval::check_lengths(*encoder, a.needles);
  std::optional<eval::Setting> generating;
  if (a.prompt) generating = eval::generation_setting(source, a.overrides);
  std::optional<eval::DatasetRows> dataset;
  if (!a.data.empty()) dataset.emplace(a.data, settings.front().model, a.max_length);

  const auto comm = make_comm(device);
  Stream stream(device, comm->local_rank());
  stream.time_alternatives(false);  // batches of texts have a length of their own each
  const eval::LoadedModel loaded(stream, source);
  eval::Report report({.model = source.path().string(),
                       .method = std::string(name_of(source.method())),
                       .device = name_of(device),
                       .rows = a.rows,
                       .max_length = max_length_of(a, settings.front()),
                       .seeds = a.seeds,
                       .limit = a.limit});
  if (generating && comm->rank() == 0) eval::generate(stream, loaded, *generating, *encoder, *a.prompt, a.generation);
  if (a.data.empty() && tasks.empty() && !a.needle) return kExitDone;
  std::string attention_tables;
  for (const eval::Setting& setting : settings) {
    report.begin(setting);
    {  // its memory goes before others take theirs
      eval::ForwardPass pass(stream, loaded, setting);
      if (dataset) report.add(eval::dataset_loss(pass, *comm, *dataset, a.rows));
      for (const eval::Task& task : tasks)
        report.add(eval::run_task(pass, *comm, *encoder, task,
                                  {.rows = a.rows,
                                   .max_length = max_length_of(a, setting),
                                   .stride = a.stride,
                                   .num_fewshot = a.num_fewshot,
                                   .seeds = a.seeds,
                                   .limit = a.limit,
                                   .samples = a.log_samples}));
    }
    if (a.needle) report.attach("needle", eval::needle(stream, *comm, loaded, setting, *encoder, a.needles));
    if (!a.attention_stats) continue;
    const eval::AttentionReport attention = attention_report(
        a, stream, *comm, loaded, setting, dataset ? &*dataset : nullptr, encoder ? &*encoder : nullptr);
    report.attach("attention", attention.json());
    attention_tables += concat("\nattention, ", setting.name(), ", ", attention.rows, " rows of ", attention.tokens,
                               " tokens\n", attention.table());
  }
  if (comm->rank() != 0) return kExitDone;
  std::fputs((report.table() + attention_tables).c_str(), stdout);
  if (!a.output.empty()) report.write(a.output);
  return kExitDone;
}

}  // namespace

int main(int argc, char** argv) {
  return ssa::run_ranks([&] { return run(argc, argv); });
}
