#include "ssa/runtime/background_queue.h"

#include <atomic>
#include <stdexcept>
#include <string>
#include <vector>

#include "support/catch.h"
#include "support/skip.h"

using namespace ssa;

TEST_CASE("background queue: work runs in order, while the main thread continues") {
  Stream main(DeviceKind::cpu);
  BackgroundQueue queue(main, true);
  std::atomic<bool> continued = false;
  std::string order;
  queue.run([&](Stream& stream) {
    while (!continued) {
    }
    CHECK(stream.kind() == DeviceKind::cpu);
    order += 'a';
  });
  const BackgroundQueue::Ticket second = queue.run([&](Stream&) { order += 'b'; });
  continued = true;  // with work that ran at once, this line would not be reached
  queue.wait(second);
  CHECK(order == "ab");
  queue.wait(0);
}

TEST_CASE("background queue: the destructor waits for the work that was queued") {
  Stream main(DeviceKind::cpu);
  int done = 0;
  {
    BackgroundQueue queue(main, true);
    for (int i = 0; i < 100; ++i) queue.run([&](Stream&) { ++done; });
  }
  CHECK(done == 100);
}

TEST_CASE("background queue: what work throws is thrown where it is waited for, and later work does not run") {
  Stream main(DeviceKind::cpu);
  BackgroundQueue queue(main, true);
  bool ran = false;
  const auto first = queue.run([](Stream&) { throw std::runtime_error("no route to rank 1"); });
  const auto second = queue.run([&](Stream&) { ran = true; });
  CHECK_THROWS_WITH(queue.wait(first), "no route to rank 1");
  CHECK_THROWS_WITH(queue.wait(second), "no route to rank 1");
  CHECK_FALSE(ran);
}

TEST_CASE("background queue: without concurrency, work runs on the main stream when it is queued") {
  Stream main(DeviceKind::cpu);
  BackgroundQueue queue(main, false);
  bool ran = false;
  const auto ticket = queue.run([&](Stream& stream) { ran = &stream == &main; });
  CHECK(ran);
  queue.wait(ticket);
}

TEST_CASE("background queue: on CUDA, work starts after the main stream, which waits for it") {
  if (ssa::test::skip_without_gpu()) return;
  Stream main(DeviceKind::cuda);
  constexpr std::int64_t kCount = 1 << 24;
  Buffer a(main, kCount), b(main, kCount);
  const Tensor from(a.data(), DType::u8, {kCount}), to(b.data(), DType::u8, {kCount});
  const std::vector<std::uint8_t> ones(kCount, 1), zeros(kCount, 0);
  for (int round = 0; round < 10; ++round) {
    BackgroundQueue queue(main, true);
    main.copy(to.data(), zeros.data(), to.bytes());
    main.copy(from.data(), ones.data(), from.bytes());
    const auto ticket = queue.run([&](Stream& stream) { stream.copy(to.data(), from.data(), to.bytes()); });
    queue.wait(ticket);
    main.zero(from);
    std::vector<std::uint8_t> read(kCount);
    main.copy(read.data(), to.data(), to.bytes());
    main.synchronize();
    CHECK(read == ones);
  }
}
