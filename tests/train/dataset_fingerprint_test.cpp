#include "ssa/train/dataset_fingerprint.h"

#include <filesystem>

#include "support/catch.h"
#include "support/make_dataset.h"
#include "support/temp_dir.h"

using namespace ssa;
using namespace ssa::test;

namespace {

/// Of a dataset of these shards, in a directory of its own.
std::string fingerprint(const std::vector<Documents>& shards, const DatasetOptions& options = {}) {
  const TempDir dir;
  make_dataset(dir.path(), shards, options);
  return dataset_fingerprint(Dataset(dir.path()));
}

}  // namespace

TEST_CASE("dataset fingerprint: the same documents have the same fingerprint in another directory") {
  const Documents documents = random_documents(100, 50, 1);
  CHECK(fingerprint({documents}).size() == 16);
  CHECK(fingerprint({documents}) == fingerprint({documents}));
}

TEST_CASE("dataset fingerprint: any change to a small dataset changes it") {
  const Documents first = random_documents(100, 50, 1), second = random_documents(30, 50, 2);
  const std::string before = fingerprint({first, second});
  const DatasetOptions bare = {.json = false};
  const std::string bare_before = fingerprint({first, second}, bare);

  Documents token = first;
  token.back().front() = (token.back().front() + 1) % 256;
  CHECK(fingerprint({token, second}) != before);
  CHECK(fingerprint({token, second}, bare) != bare_before);

  Documents longer = first;
  longer.push_back(first.front());
  CHECK(fingerprint({longer, second}, bare) != bare_before);

  // The same tokens end to end, cut in another place.
  Documents split = first;
  split.front().insert(split.front().end(), split[1].begin(), split[1].end());
  split.erase(split.begin() + 1);
  CHECK(fingerprint({split, second}, bare) != bare_before);
  CHECK(fingerprint({second, first}, bare) != bare_before);
  CHECK(fingerprint({first, second}, {.type = TokenType::int32, .json = false}) != bare_before);
}

TEST_CASE("dataset fingerprint: a large dataset is sampled in all shards") {
  const Documents documents(2000, TokenIds(1000, 7));  // 4 MB
  const DatasetOptions bare = {.json = false};
  const std::string before = fingerprint({documents, documents}, bare);
  for (const std::size_t shard : {0, 1}) {
    std::vector<Documents> shards = {documents, documents};
    for (std::size_t i = 500; i < 600; ++i) shards[shard][i].assign(1000, 8);
    CHECK(fingerprint(shards, bare) != before);
  }
}
