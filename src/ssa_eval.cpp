// ssa_eval: loss and perplexity of a trained model on a tokenized dataset, under sparse and full attention.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include "ssa/dist/comm.h"
#include "ssa/train/evaluate.h"
#include "ssa/train/model_source.h"
#include "ssa/train/model_state.h"
#include "ssa/train/optimizer_step.h"

namespace {

using namespace ssa;

constexpr const char* kHelp =
    R"(ssa_eval: loss and perplexity of a trained model on a tokenized dataset

usage: ssa_eval --model DIR --data DATASET [--mode sparse|full|both] [--max-length N] [--rows N] [--block-counts N]
                [--device auto|cuda|cpu]

  --model DIR        a run's output_dir (its newest checkpoint is taken), a checkpoint, or a Hugging Face folder
  --data DATASET     a folder written by ssa_tokenize with the model's tokenizer
  --mode WHAT        sparse: the selected blocks only (and nsa's other branches); full: full causal attention; both
                     (default; sparse alone for nsa, whose model has no full attention)
  --max-length N     tokens of a row (default: max_position_embeddings, at most 2048)
  --rows N           rows computed at a time (default 8)
  --block-counts N   blocks a token may select, in place of the model's
  --device WHAT      auto: a GPU if there is one (default); cuda; cpu

example: ssa_eval --model runs/tiny --data data/tiny/eval

exit code: 0 done, 1 failed, 2 wrong usage
)";

struct Arguments {
  std::string model, data, mode = "both", device = "auto";
  std::int64_t max_length = 0, rows = 8, block_counts = 0;
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
      a.mode = value();
    else if (flag == "--device")
      a.device = value();
    else if (flag == "--max-length")
      a.max_length = positive(flag, value());
    else if (flag == "--rows")
      a.rows = positive(flag, value());
    else if (flag == "--block-counts")
      a.block_counts = positive(flag, value());
    else
      fail_usage("ssa_eval: unknown argument ", flag, "; see ssa_eval --help");
  }
  if (a.model.empty() || a.data.empty()) fail_usage("ssa_eval: --model and --data are needed; see ssa_eval --help");
  if (a.mode != "sparse" && a.mode != "full" && a.mode != "both")
    fail_usage("ssa_eval: --mode ", a.mode, ", expected sparse, full or both");
  return true;
}

int run(int argc, char** argv) {
  Arguments a;
  if (!parse(argc, argv, a)) return kExitDone;
  const DeviceKind device = parse_device(a.device);
  const ModelSource source(a.model);
  ModelConfig model = source.config();
  if (a.block_counts) model.block_counts = a.block_counts;
  const bool nsa = source.method() == Method::nsa;
  if (nsa && a.mode == "full")
    fail_usage("ssa_eval: ", a.model, " is an nsa model, it has no full attention; use --mode sparse");

  const auto comm = make_comm(device);
  Stream stream(device, comm->local_rank());
  const Dataset dataset(a.data);
  dataset.check_model(model.vocab_size, model.eos_token_id);
  const std::int64_t tokens = a.max_length ? a.max_length : std::min<std::int64_t>(model.max_position_embeddings, 2048);
  const RowLoader loader(dataset, {.max_length = tokens,
                                   .shuffle = false,
                                   .pad_id = static_cast<std::int32_t>(model.eos_token_id),
                                   .vocab_size = model.vocab_size});

  const ParamTable table(model);
  const std::vector<NamedShape> parameters = published_parameters(model);
  if (comm->rank() == 0) {
    std::printf("%s (%s), %lld rows of %lld tokens of %s\n", source.path().c_str(),
                std::string(name_of(source.method())).c_str(), static_cast<long long>(loader.rows()),
                static_cast<long long>(tokens), a.data.c_str());
    std::printf("%-10s %14s %12s %12s\n", "attention", "targets", "nats/token", "perplexity");
  }
  for (const std::string mode : {"sparse", "full"}) {
    if (a.mode != "both" ? a.mode != mode : nsa && mode == "full") continue;
    const AttentionPath path = mode == "full" ? AttentionPath::full
                               : nsa          ? AttentionPath::nsa
                                              : AttentionPath::selected;
    const StateShape shape{
        .model = model,
        .pass = {.rows = std::min(a.rows, loader.rows()), .tokens = tokens, .path = path, .backward = false},
        .selection = source.selection(),
        .kind = device};
    const ModelState state(stream, shape, table);
    load_master_weights(stream, state, [&](std::size_t i, std::span<float> out, std::int64_t first) {
      source.read(parameters[i], out, first);
    });
    publish_weights(stream, *comm, state);
    BatchStaging staging(stream, shape.pass.rows, tokens);
    const EvalSums sums = evaluate_rows(stream, *comm, state.model(), state.batch, state.all_sums, state.sums, staging,
                                        loader, mode == "full");
    if (comm->rank() == 0)
      std::printf("%-10s %14lld %12.4f %12.3f\n", mode.c_str(), static_cast<long long>(sums.labels), sums.mean(),
                  std::exp(sums.mean()));
  }
  return kExitDone;
}

}  // namespace

int main(int argc, char** argv) {
  return ssa::run_ranks([&] { return run(argc, argv); });
}
