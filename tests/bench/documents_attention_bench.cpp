// Attention over sequences of several documents, with a document mask, against the same documents as sequences of their
// own without one. With one document per sequence, this is what the mask costs.
#include <cstdio>
#include <map>
#include <string>
#include <vector>

#include "bench/bench.h"

using namespace ssa;
using namespace ssa::bench;

namespace {

constexpr const char* kGroups[] = {"causal_attention", "causal_attention_128", "select_blocks", "compressed_attention"};

SSA_BENCH(documents_attention) {
  if (!bench.asked_for("documents_attention")) return;
  std::vector<std::int64_t> lengths;
  for (const std::int64_t tokens : {512, 1024, 2048})
    if (bench.shapes.tokens % tokens == 0) lengths.push_back(tokens);
  lengths.push_back(bench.shapes.tokens);
  struct Pair {
    double masked, alone;
  };
  std::map<std::string, std::vector<Pair>> kernels;
  for (const std::int64_t tokens : lengths) {
    Shapes masked = bench.shapes, alone = bench.shapes;
    masked.document_tokens = alone.tokens = tokens;
    alone.rows = bench.shapes.M() / tokens;
    for (const char* group : kGroups) {
      const auto with_mask = bench.timings(group, masked), without = bench.timings(group, alone);
      for (const auto& [name, timing] : with_mask) kernels[name].push_back({timing.ms, without.at(name).ms});
    }
  }
  std::printf(
      "\nSequences of %lld tokens with a document mask, by tokens per document: ms (over that of sequences of one "
      "document, without a mask)\n\n| %-32s |",
      static_cast<long long>(bench.shapes.tokens), "");
  for (const std::int64_t tokens : lengths) std::printf(" %13lld |", static_cast<long long>(tokens));
  std::printf("\n|---|");
  for (std::size_t i = 0; i < lengths.size(); ++i) std::printf("---|");
  for (const auto& [name, pairs] : kernels) {
    std::printf("\n| %-32s |", name.c_str());
    for (const Pair& pair : pairs) std::printf(" %6.3f (%4.2f) |", pair.masked, pair.masked / pair.alone);
  }
  std::printf("\n");
  std::fflush(stdout);
}

}  // namespace
