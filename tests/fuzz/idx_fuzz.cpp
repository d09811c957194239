// Any .idx file next to a .bin of 64 bytes: a dataset whose documents can all be read, or an Error.
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "ssa/base/error.h"
#include "ssa/data/indexed_dataset.h"
#include "support/temp_dir.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const ssa::test::TempDir directory;
  static const bool written = (ssa::test::write_file(directory / "shard.bin", std::string(64, '\1')), true);
  (void)written;
  ssa::test::write_file(directory / "shard.idx", {reinterpret_cast<const char*>(data), size});
  try {
    const ssa::IndexedDataset dataset(directory / "shard");
    for (std::int64_t i = 0; i < dataset.documents(); ++i) {
      std::vector<std::int32_t> ids(static_cast<std::size_t>(dataset.length(i)));
      dataset.read(i, 0, ids);
    }
  } catch (const ssa::Error&) {
  }
  return 0;
}
