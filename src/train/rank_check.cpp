#include "ssa/train/rank_check.h"

#include <algorithm>
#include <string>
#include <vector>

#include "ssa/base/checksum.h"
#include "ssa/base/mapped_file.h"

namespace ssa {
namespace {

/// The checksum of every rank. All have one length.
std::vector<std::string> gather_hashes(Comm& comm, std::string hash) {
  Stream host(DeviceKind::cpu);
  const auto length = static_cast<std::int64_t>(hash.size());
  std::string all(hash.size() * static_cast<std::size_t>(comm.size()), ' ');
  comm.all_gather(host, Tensor(hash.data(), DType::u8, {length}),
                  Tensor(all.data(), DType::u8, {length * comm.size()}));
  std::vector<std::string> hashes;
  for (std::size_t begin = 0; begin < all.size(); begin += hash.size())
    hashes.push_back(all.substr(begin, hash.size()));
  return hashes;
}

/// The ranks at which the lists differ.
std::vector<int> differences(const std::vector<std::string>& found, const std::vector<std::string>& expected) {
  std::vector<int> ranks;
  for (std::size_t rank = 0; rank < found.size(); ++rank)
    if (found[rank] != expected[rank]) ranks.push_back(static_cast<int>(rank));
  return ranks;
}

/// "rank 1" or "ranks 1, 3".
std::string ranks_text(const std::vector<int>& ranks) {
  std::string text = ranks.size() == 1 ? "rank" : "ranks";
  for (std::size_t i = 0; i < ranks.size(); ++i) text += concat(i == 0 ? " " : ", ", ranks[i]);
  return text;
}

/// `others` are the ranks that differ; the values are those of the first of them.
[[noreturn]] void fail_different(const std::vector<int>& others, const std::string& found, const std::string& expected,
                                 const std::string& advice) {
  fail(ranks_text(others), others.size() == 1 ? " differs from rank 0: found " : " differ from rank 0: found ", found,
       " on rank ", others[0], ", expected ", expected, "; ", advice);
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

void check_same_lines(Comm& comm, const std::vector<std::string>& lines, const std::string& advice) {
  if (comm.size() == 1) return;
  const std::string text = joined(lines);
  const std::vector<std::string> hashes = gather_hashes(comm, xxh3_hex(text.data(), text.size()));
  const std::vector<int> others = differences(hashes, std::vector<std::string>(hashes.size(), hashes[0]));
  if (others.empty()) return;
  const auto [found, expected] = first_difference(broadcast(comm, text, others[0]), broadcast(comm, text, 0));
  fail_different(others, found, expected, advice);
}

void check_same_parts(Comm& comm, const std::string& what, const std::string& own,
                      const std::vector<std::string>& expected, const std::string& advice) {
  if (comm.size() == 1) return;
  const std::vector<std::string> found = gather_hashes(comm, own);
  std::vector<std::string> all(found.size());
  for (std::size_t rank = 0; rank < all.size(); ++rank)
    all[rank] = broadcast(comm, comm.rank() == 0 ? expected.at(rank) : "");
  const std::vector<int> others = differences(found, all);
  if (others.empty()) return;
  const auto first = static_cast<std::size_t>(others[0]);
  fail_different(others, concat(what, ": XXH3 ", found[first]), concat(what, ": XXH3 ", all[first]), advice);
}

void check_same_command(Comm& comm, const Config& config, const TrainOptions& options) {
  if (comm.size() == 1) return;
  const MappedFile program("/proc/self/exe");
  std::vector<std::string> lines = {concat("ssa_train binary: XXH3 ", xxh3_hex(program.data(), program.size())),
                                    concat("--resume ", options.resume)};
  for (const std::string& key : options.allowed_changes) lines.push_back("--allow-change " + key);
  for (const std::string& line : config_lines(config)) lines.push_back(line);
  check_same_lines(comm, lines, "every rank needs the same command, config and program");
}

void check_same_weights(Stream& stream, Comm& comm, Comm& shard, const ModelState& state) {
  if (comm.size() == 1) return;
  Xxh3 hash;
  std::vector<std::byte> host;
  for (std::size_t i = 0; i < state.pass_weights.size(); ++i) {
    const Tensor weights = state.pass_weights[i];
    if (state.shape().shards_weights())
      shard.all_gather(stream, state.owned_weights(state.table().buckets()[i]), weights);
    host.resize(weights.bytes());
    stream.copy(host.data(), weights.data(), host.size());
    stream.synchronize();
    hash.update(host.data(), host.size());
  }
  check_same_lines(comm, {concat("weights: XXH3 ", hash.hex())},
                   "do all ranks see the same init_from, checkpoints and files?");
}

}  // namespace ssa
