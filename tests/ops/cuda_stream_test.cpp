// Pinned host memory of a CUDA stream, and the environment variables that it reads.
#include <cstring>
#include <string>

#include "ssa/runtime/stream.h"
#include "support/catch.h"
#include "support/environment.h"
#include "support/error_of.h"
#include "support/skip.h"

using namespace ssa;

TEST_CASE("host memory on CUDA, small and in huge pages, holds what is copied") {
  if (ssa::test::skip_without_gpu()) return;
  Stream stream(DeviceKind::cuda);
  for (const std::size_t bytes : {std::size_t{4096}, (std::size_t{64} << 20) - 1, (std::size_t{64} << 20) + 12345}) {
    CAPTURE(bytes);
    Buffer from(stream, bytes, Buffer::Place::host), to(stream, bytes, Buffer::Place::host), device(stream, bytes);
    auto* values = static_cast<unsigned char*>(from.data());
    for (std::size_t i = 0; i < bytes; ++i) values[i] = static_cast<unsigned char>(i * 31 + i / 4096);
    std::memset(to.data(), 0, bytes);
    stream.copy(device.data(), from.data(), bytes);
    stream.copy(to.data(), device.data(), bytes);
    stream.synchronize();
    CHECK(std::memcmp(to.data(), from.data(), bytes) == 0);
  }
}

TEST_CASE("environment variables of a CUDA stream that are not understood are errors") {
  if (ssa::test::skip_without_gpu()) return;
  for (const char* value : {"", "47", "99 ", "99k", "1000", "-1"}) {
    const ssa::test::Environment variable{{"SSA_SHARED_MEMORY_KB", value}};
    ssa::test::check_error(ssa::test::error_of([] { Stream stream(DeviceKind::cuda); }),
                           std::string("SSA_SHARED_MEMORY_KB is ") + value, "expected a number from 48 to ");
  }
  for (const char* name : {"SSA_CUDA_DEBUG", "SSA_FORCE_GENERIC"})
    for (const char* value : {"", "off", "2", "1 "}) {
      const ssa::test::Environment variable{{name, value}};
      CHECK(ssa::test::error_of([] { Stream stream(DeviceKind::cuda); }) ==
            std::string(name) + " is " + value + ", expected 0 or 1");
    }
}
