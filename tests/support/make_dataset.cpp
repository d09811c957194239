#include "support/make_dataset.h"

#include <fmt/format.h>

#include <string>

#include "ssa/base/checksum.h"
#include "ssa/base/random.h"
#include "support/temp_dir.h"

namespace ssa::test {
namespace {

template <class T>
void append(std::string& bytes, T value) {
  bytes.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

}  // namespace

void write_indexed_dataset(const std::filesystem::path& prefix, const Documents& documents, TokenType type) {
  std::string bin, lengths, offsets, indices;
  for (std::size_t d = 0; d < documents.size(); ++d) {
    append(lengths, static_cast<std::int32_t>(documents[d].size()));
    append(offsets, static_cast<std::int64_t>(bin.size()));
    append(indices, static_cast<std::int64_t>(d));
    for (std::int32_t id : documents[d]) {
      if (type == TokenType::uint16)
        append(bin, static_cast<std::uint16_t>(id));
      else if (type == TokenType::int64)
        append(bin, static_cast<std::int64_t>(id));
      else
        append(bin, id);
    }
  }
  append(indices, static_cast<std::int64_t>(documents.size()));

  std::string idx(kIdxMagic.data(), kIdxMagic.size());
  append(idx, kIdxVersion);
  append(idx, static_cast<std::uint8_t>(type));
  append(idx, static_cast<std::uint64_t>(documents.size()));
  append(idx, static_cast<std::uint64_t>(documents.size() + 1));
  write_file(std::filesystem::path(prefix) += ".bin", bin);
  write_file(std::filesystem::path(prefix) += ".idx", idx + lengths + offsets + indices);
}

void make_dataset(const std::filesystem::path& directory, const std::vector<Documents>& shards,
                  const DatasetOptions& options) {
  std::filesystem::create_directories(directory);
  std::string list;
  for (std::size_t s = 0; s < shards.size(); ++s) {
    const std::string name = fmt::format("shard-{:05}", s);
    write_indexed_dataset(directory / name, shards[s], options.type);
    std::size_t tokens = 0;
    for (const TokenIds& document : shards[s]) tokens += document.size();
    const std::string bin = read_file(directory / (std::string(name) + ".bin"));
    const std::string idx = read_file(directory / (std::string(name) + ".idx"));
    list += concat(s ? ",\n" : "", "  {\"name\": \"", name, "\", \"documents\": ", shards[s].size(),
                   ", \"tokens\": ", tokens, ", \"bin_bytes\": ", bin.size(), ", \"idx_bytes\": ", idx.size(),
                   ", \"bin_xxh3\": \"", xxh3_hex(bin.data(), bin.size()), "\", \"idx_xxh3\": \"",
                   xxh3_hex(idx.data(), idx.size()), "\"}");
  }
  if (!options.json) return;
  write_file(directory / "dataset.json",
             concat("{\"format\": \"megatron-indexed\",\n \"tokenizer\": {\"name\": \"bytes\", \"sha256\": \"",
                    std::string(64, '0'), "\"},\n \"vocab_size\": ", options.vocab_size,
                    ",\n \"eos_token_id\": ", options.eos_token_id, ",\n \"dtype\": \"", name_of(options.type),
                    "\",\n \"shards\": [\n", list, "]}\n"));
}

Documents random_documents(std::int64_t count, std::int64_t max_length, std::uint64_t seed, std::int32_t eos) {
  Documents documents(static_cast<std::size_t>(count));
  for (std::size_t d = 0; d < documents.size(); ++d) {
    // The square of a uniform number: most documents are short, and the longest still occur.
    const double u = random_uniform(seed, RandomPurpose::test, d, 0);
    documents[d].resize(1 + static_cast<std::size_t>(u * u * static_cast<double>(max_length)));
    for (std::size_t i = 0; i + 1 < documents[d].size(); ++i)
      documents[d][i] =
          static_cast<std::int32_t>(random_bits(seed, RandomPurpose::test, d, i + 1) % static_cast<std::uint64_t>(eos));
    documents[d].back() = eos;
  }
  return documents;
}

}  // namespace ssa::test
