// ssa_eval: what a trained model is worth, under sparse and full attention. The command line; the work is src/eval's.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include "ssa/dist/comm.h"
#include "ssa/eval/dataset_loss.h"
#include "ssa/eval/setting.h"

namespace {

using namespace ssa;

constexpr const char* kHelp =
    R"(ssa_eval: evaluates a trained model, under sparse and full attention and several budgets

usage: ssa_eval --model DIR WHAT... [HOW...]

  --model DIR        a run's output_dir (its newest checkpoint is taken), a checkpoint, or a Hugging Face folder

what:
  --data DATASET     loss and perplexity a token of a folder written by ssa_tokenize with the model's tokenizer

how:
  --mode WHAT        sparse: the selected blocks only (and nsa's other branches); full: full causal attention; both
                     (default; sparse alone for nsa, whose model has no full attention)
  --block-counts L   blocks a token may select, in place of the model's: a number, or several as in 8,16,32
  --block-size N     tokens of a block, in place of the model's
  --rope-scaling F   llama3 scaling of the rotary frequencies by the factor F, for longer texts than the model was
                     trained on
  --max-length N     tokens the model sees at a time (default: max_position_embeddings; with --data at most 2048)
  --rows N           rows computed at a time (default 8)
  --device WHAT      auto: a GPU if there is one (default); cuda; cpu

example: ssa_eval --model runs/tiny --data data/tiny/eval --block-counts 2,4,8

Under mpirun the work is spread over the ranks.
exit code: 0 done, 1 failed, 2 wrong usage
)";

struct Arguments {
  std::string model, data, device = "auto";
  eval::Overrides overrides;
  std::int64_t max_length = 0, rows = 8;
};

std::int64_t positive(const std::string& flag, const std::string& text) {
  std::size_t used = 0;
  std::int64_t value = 0;
  try {
    value = std::stoll(text, &used);
  } catch (const std::exception&) {
  }
  if (used != text.size() || value < 1) fail_usage("ssa_eval: ", flag, " ", text, ", expected a positive number");
  return value;
}

double positive_real(const std::string& flag, const std::string& text) {
  std::size_t used = 0;
  double value = 0;
  try {
    value = std::stod(text, &used);
  } catch (const std::exception&) {
  }
  if (used != text.size() || !(value > 0) || !std::isfinite(value))
    fail_usage("ssa_eval: ", flag, " ", text, ", expected a number above 0");
  return value;
}

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> parts(1);
  for (const char c : text)
    if (c == ',')
      parts.emplace_back();
    else
      parts.back() += c;
  return parts;
}

/// Nothing when help was printed.
bool parse(int argc, char** argv, Arguments& a) {
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    const auto value = [&]() -> std::string {
      if (i + 1 >= argc) fail_usage("ssa_eval: ", flag, " needs a value; see ssa_eval --help");
      return argv[++i];
    };
    if (flag == "--help" || flag == "-h") {
      std::fputs(kHelp, stdout);
      return false;
    }
    if (flag == "--model")
      a.model = value();
    else if (flag == "--data")
      a.data = value();
    else if (flag == "--mode")
      a.overrides.mode = value();
    else if (flag == "--device")
      a.device = value();
    else if (flag == "--max-length")
      a.max_length = positive(flag, value());
    else if (flag == "--rows")
      a.rows = positive(flag, value());
    else if (flag == "--block-counts")
      for (const std::string& part : split(value())) a.overrides.block_counts.push_back(positive(flag, part));
    else if (flag == "--block-size")
      a.overrides.block_size = positive(flag, value());
    else if (flag == "--rope-scaling")
      a.overrides.rope_scaling = positive_real(flag, value());
    else
      fail_usage("ssa_eval: unknown argument ", flag, "; see ssa_eval --help");
  }
  if (a.model.empty()) fail_usage("ssa_eval: --model is needed; see ssa_eval --help");
  if (a.data.empty()) fail_usage("ssa_eval: nothing to evaluate: --data is needed; see ssa_eval --help");
  return true;
}

/// --data
void print_dataset_loss(const Arguments& a, Stream& stream, Comm& comm, const ModelSource& source,
                        const std::vector<eval::Setting>& settings) {
  const Dataset dataset(a.data);
  const ModelConfig& model = settings.front().model;
  dataset.check_model(model.vocab_size, model.eos_token_id);
  const std::int64_t tokens = a.max_length ? a.max_length : std::min<std::int64_t>(model.max_position_embeddings, 2048);
  const RowLoader loader(dataset, {.max_length = tokens,
                                   .shuffle = false,
                                   .pad_id = static_cast<std::int32_t>(model.eos_token_id),
                                   .vocab_size = model.vocab_size});
  if (comm.rank() == 0) {
    std::printf("%s (%s), %lld rows of %lld tokens of %s\n", source.path().c_str(),
                std::string(name_of(source.method())).c_str(), static_cast<long long>(loader.rows()),
                static_cast<long long>(tokens), a.data.c_str());
    std::printf("%-16s %14s %12s %12s\n", "attention", "targets", "nats/token", "perplexity");
  }
  for (const eval::Setting& setting : settings) {
    const EvalSums sums = dataset_loss(stream, comm, source, setting, loader, a.rows);
    if (comm.rank() == 0)
      std::printf("%-16s %14lld %12.4f %12.3f\n", setting.name().c_str(), static_cast<long long>(sums.labels),
                  sums.mean(), std::exp(sums.mean()));
  }
}

int run(int argc, char** argv) {
  Arguments a;
  if (!parse(argc, argv, a)) return kExitDone;
  const DeviceKind device = parse_device(a.device);
  const ModelSource source(a.model);
  const std::vector<eval::Setting> settings = eval::settings_of(source, a.overrides);
  const auto comm = make_comm(device);
  Stream stream(device, comm->local_rank());
  print_dataset_loss(a, stream, *comm, source, settings);
  return kExitDone;
}

}  // namespace

int main(int argc, char** argv) {
  return ssa::run_ranks([&] { return run(argc, argv); });
}
