#include "ssa/train/dataset_fingerprint.h"

#include <algorithm>
#include <cstdint>

#include "ssa/base/checksum.h"

namespace ssa {
namespace {

constexpr std::size_t kPieces = 256, kPieceBytes = 4096;

void add(Xxh3& hash, const std::string& text) { hash.update(text.data(), text.size() + 1); }

}  // namespace

std::string dataset_fingerprint(const Dataset& dataset) {
  Xxh3 hash;
  std::size_t bytes = 0;
  for (const IndexedDataset& shard : dataset.shards()) {
    add(hash, std::string(name_of(shard.type())));
    hash.update(shard.idx().data(), shard.idx().size());
    bytes += shard.bin().size();
  }
  if (dataset.info())
    for (const ShardInfo& shard : dataset.info()->shards) add(hash, shard.bin_xxh3);

  // Pieces begin at multiples of `stride` in the shards' tokens, concatenated.
  const std::size_t stride = std::max(kPieceBytes, bytes / kPieces);
  std::size_t skip = 0;  // bytes of the next shard before its first piece
  for (const IndexedDataset& shard : dataset.shards()) {
    const std::size_t size = shard.bin().size();
    std::size_t at = skip;
    for (; at < size; at += stride) hash.update(shard.bin().data() + at, std::min(kPieceBytes, size - at));
    skip = at - size;
  }
  return hash.hex();
}

}  // namespace ssa
