#include "ssa/train/rank_check.h"

#include <algorithm>
#include <string>
#include <vector>

#include "ssa/base/checksum.h"

namespace ssa {
namespace {

/// The ranks whose `hash` differs from rank 0's.
std::vector<int> ranks_that_differ(Comm& comm, std::string hash) {
  Stream host(DeviceKind::cpu);
  const auto length = static_cast<std::int64_t>(hash.size());
  std::string all(hash.size() * static_cast<std::size_t>(comm.size()), ' ');
  comm.all_gather(host, Tensor(hash.data(), DType::u8, {length}),
                  Tensor(all.data(), DType::u8, {length * comm.size()}));
  std::vector<int> ranks;
  for (int rank = 0; rank < comm.size(); ++rank)
    if (all.compare(static_cast<std::size_t>(rank) * hash.size(), hash.size(), all, 0, hash.size()) != 0)
      ranks.push_back(rank);
  return ranks;
}

/// "rank 1" or "ranks 1, 3".
std::string ranks_text(const std::vector<int>& ranks) {
  std::string text = ranks.size() == 1 ? "rank" : "ranks";
  for (std::size_t i = 0; i < ranks.size(); ++i) text += concat(i == 0 ? " " : ", ", ranks[i]);
  return text;
}

std::string joined(const std::vector<std::string>& lines) {
  std::string text;
  for (const std::string& line : lines) text += line + "\n";
  return text;
}

/// The first line in which two texts differ, of each.
std::pair<std::string, std::string> first_difference(const std::string& a, const std::string& b) {
  std::size_t begin = 0;
  for (std::size_t i = 0; i < std::min(a.size(), b.size()) && a[i] == b[i]; ++i)
    if (a[i] == '\n') begin = i + 1;
  const auto line = [&](const std::string& text) { return text.substr(begin, text.find('\n', begin) - begin); };
  return {line(a), line(b)};
}

}  // namespace

void check_same_config(Comm& comm, const Config& config) {
  if (comm.size() == 1) return;
  const std::string json = config_json(config);
  const std::vector<int> others = ranks_that_differ(comm, xxh3_hex(json.data(), json.size()));
  if (others.empty()) return;
  const std::string lines = joined(config_lines(config));
  const auto [found, expected] = first_difference(broadcast(comm, lines, others[0]), broadcast(comm, lines, 0));
  fail_usage("the config of ", ranks_text(others), " is not that of rank 0: found ", found, " on rank ", others[0],
             ", expected ", expected);
}

void check_same_weights(Stream& stream, Comm& comm, const ModelState& state) {
  if (comm.size() == 1) return;
  Xxh3 hash;
  std::vector<std::byte> host;
  for (const Bucket& bucket : state.table().buckets()) {
    const Tensor weights = state.weights.rows(bucket.range.begin, bucket.range.end);
    host.resize(weights.bytes());
    stream.copy(host.data(), weights.data(), host.size());
    stream.synchronize();
    hash.update(host.data(), host.size());
  }
  const std::vector<int> others = ranks_that_differ(comm, hash.hex());
  if (!others.empty())
    fail("the weights of ", ranks_text(others), " are not those of rank 0: do all ranks read the same init_from, ",
         "checkpoint and files?");
}

}  // namespace ssa
