// The logits this program computes, for scripts/check_export.py to compare with transformers'.
//
//   dump_logits MODEL sparse|full IDS LENGTH... > LOGITS
//
// IDS: a file of token ids, i32. For each LENGTH, runs a forward pass over the first LENGTH ids on the CPU and writes
// its logits, f32 [LENGTH, vocab_size].
#include <cstdio>
#include <string>
#include <vector>

#include "kernels/matmul/matmul.h"
#include "ssa/base/file.h"
#include "ssa/comm/comm.h"
#include "ssa/train/model_source.h"
#include "ssa/train/model_state.h"
#include "ssa/train/optimizer_step.h"

namespace {

using namespace ssa;

void dump(const ModelSource& source, AttentionPath path, std::span<const std::int32_t> ids) {
  const auto tokens = static_cast<std::int64_t>(ids.size());
  Stream stream(DeviceKind::cpu);
  const ParamTable table(source.config());
  const ModelState state(
      stream,
      {.model = source.config(),
       .pass = {.rows = 1, .tokens = tokens, .path = path, .selection = source.selection(), .backward = false}},
      table);
  const std::vector<TensorSpec> parameters = published_parameters(source.config());
  load_master_weights(stream, state, [&](std::size_t i, std::span<float> out, std::int64_t first) {
    source.read(parameters[i], out, first);
  });
  std::vector<std::int32_t> positions(ids.size());
  for (std::size_t t = 0; t < ids.size(); ++t) positions[t] = static_cast<std::int32_t>(t);
  stream.copy(state.batch.ids.data(), ids.data(), ids.size_bytes());
  stream.copy(state.batch.positions.data(), positions.data(), ids.size_bytes());
  forward(stream, state.model(), state.batch, {}, state.sums.losses());
  std::vector<float> logits(ids.size() * static_cast<std::size_t>(source.config().vocab_size));
  matmul(stream, {.out = {logits.data(), DType::f32, {tokens, source.config().vocab_size}},
                  .a = state.activations.final_norm,
                  .b = state.model().weights.lm_head,
                  .transpose_b = true});
  stream.synchronize();
  SSA_CHECK(std::fwrite(logits.data(), sizeof(float), logits.size(), stdout) == logits.size(),
            "standard output: cannot write");
}

int run(int argc, char** argv) {
  if (argc < 5) fail_usage("dump_logits MODEL sparse|full IDS LENGTH...");
  const ModelSource source(argv[1]);
  const AttentionPath path =
      std::string(argv[2]) == "full" ? AttentionPath::full : sparse_path(source.method(), source.config());
  const std::string bytes = read_file(argv[3]);
  const std::span ids(reinterpret_cast<const std::int32_t*>(bytes.data()), bytes.size() / sizeof(std::int32_t));
  for (int i = 4; i < argc; ++i) {
    const std::size_t length = std::stoul(argv[i]);
    SSA_CHECK(length <= ids.size(), argv[3], ": ", ids.size(), " ids, expected at least ", length);
    dump(source, path, ids.first(length));
  }
  return kExitDone;
}

}  // namespace

int main(int argc, char** argv) {
  return ssa::run_ranks([&] { return run(argc, argv); });
}
