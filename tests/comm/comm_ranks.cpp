// What comm_test.cpp starts under mpirun. Exits with 0 when every check of the mode holds on every rank.
#include <signal.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <memory>
#include <thread>
#include <vector>

#include "src/comm/mpi_comm.h"
#include "src/comm/start_guard.h"
#include "ssa/base/random.h"
#include "ssa/base/signals.h"

using namespace ssa;

namespace {

/// Element i of what rank r holds. Small whole numbers, so that every sum is exact in every dtype, in any order.
int value_of(int rank, std::int64_t i) {
  return static_cast<int>(
      random_bits(1, RandomPurpose::test, static_cast<std::uint64_t>(rank), static_cast<std::uint64_t>(i)) % 40);
}

template <class T>
struct Case {
  Comm& comm;
  Stream& stream;
  std::int64_t count;

  Tensor view(std::vector<T>& v) const { return {v.data(), kDTypeOf<T>, {static_cast<std::int64_t>(v.size())}}; }
  T own(int rank, std::int64_t i) const {
    return T(static_cast<std::conditional_t<std::is_same_v<T, bfloat16>, float, T>>(value_of(rank, i)));
  }
  static bool same(const T& a, const T& b) { return std::memcmp(&a, &b, sizeof(T)) == 0; }
  void expect(const char* call, std::int64_t i, const T& got, const T& want) const {
    SSA_CHECK(same(got, want), call, " of ", count, " ", name_of(kDTypeOf<T>), ": element ", i, " is ",
              static_cast<double>(static_cast<float>(got)), ", expected ",
              static_cast<double>(static_cast<float>(want)));
  }

  void all_reduce() const {
    for (const ReduceOp op : {ReduceOp::sum, ReduceOp::max, ReduceOp::min}) {
      if (std::is_same_v<T, bfloat16> && op != ReduceOp::sum) continue;
      std::vector<T> data;
      for (std::int64_t i = 0; i < count; ++i) data.push_back(own(comm.rank(), i));
      comm.all_reduce(stream, view(data), op);
      for (std::int64_t i = 0; i < count; ++i) {
        int want = value_of(0, i);
        for (int r = 1; r < comm.size(); ++r) {
          const int v = value_of(r, i);
          want = op == ReduceOp::sum ? want + v : op == ReduceOp::max ? std::max(want, v) : std::min(want, v);
        }
        expect("all_reduce", i, data[static_cast<std::size_t>(i)], T(want));
      }
    }
  }

  void reduce_scatter(bool in_place) const {
    const std::int64_t whole = count * comm.size(), begin = count * comm.rank();
    std::vector<T> in, out(static_cast<std::size_t>(count), T(77));
    for (std::int64_t i = 0; i < whole; ++i) in.push_back(own(comm.rank(), i));
    const Tensor target = in_place ? view(in).rows(begin, begin + count) : view(out);
    comm.reduce_scatter(stream, view(in), target);
    for (std::int64_t i = 0; i < count; ++i) {
      int want = 0;
      for (int r = 0; r < comm.size(); ++r) want += value_of(r, begin + i);
      expect("reduce_scatter", i, target.as<T>()[i], T(want));
    }
    for (std::int64_t i = 0; i < whole; ++i)
      if (!in_place || i < begin || i >= begin + count)
        expect("reduce_scatter (in)", i, in[static_cast<std::size_t>(i)], own(comm.rank(), i));
  }

  void all_gather(bool in_place) const {
    const std::int64_t begin = count * comm.rank();
    std::vector<T> in, out(static_cast<std::size_t>(count * comm.size()), T(77));
    for (std::int64_t i = 0; i < count; ++i) in.push_back(own(comm.rank(), i));
    if (in_place) std::copy(in.begin(), in.end(), out.begin() + begin);
    comm.all_gather(stream, in_place ? view(out).rows(begin, begin + count) : view(in), view(out));
    for (int r = 0; r < comm.size(); ++r)
      for (std::int64_t i = 0; i < count; ++i)
        expect("all_gather", r * count + i, out[static_cast<std::size_t>(r * count + i)], own(r, i));
  }

  void broadcast() const {
    for (int root = 0; root < comm.size(); ++root) {
      std::vector<T> data;
      for (std::int64_t i = 0; i < count; ++i) data.push_back(own(comm.rank(), i));
      comm.broadcast(stream, view(data), root);
      for (std::int64_t i = 0; i < count; ++i) expect("broadcast", i, data[static_cast<std::size_t>(i)], own(root, i));
    }
  }
};

template <class T>
void check_dtype(Comm& comm, Stream& stream) {
  for (const std::int64_t count : {0, 1, 2, 3, 7, 64, 1001, 40007}) {
    const Case<T> c{comm, stream, count};
    c.all_reduce();
    c.reduce_scatter(false);
    c.reduce_scatter(true);
    c.all_gather(false);
    c.all_gather(true);
    c.broadcast();
  }
}

void expect_error(const char* what, const std::function<void()>& call) {
  try {
    call();
  } catch (const Error&) {
    return;
  }
  fail(what, ": no error");
}

/// Every rank sends rank 0 as many values as its number says.
void check_sends(Comm& comm) {
  for (const int scale : {1, 150}) {
    std::vector<std::int32_t> values;
    for (int rank = 1; rank < comm.size(); ++rank) {
      values.assign(static_cast<std::size_t>(rank * scale), comm.rank());
      const Tensor tensor(values.data(), DType::i32, {std::ssize(values)});
      if (comm.rank() == rank) comm.send(tensor, 0);
      if (comm.rank() != 0) continue;
      comm.receive(tensor, rank);
      for (const std::int32_t value : values) SSA_CHECK(value == rank, "receive: ", value, " from rank ", rank);
    }
  }
}

/// A thread sends while the main thread is in collectives of its own.
void check_sends_of_thread(Comm& comm) {
  const std::unique_ptr<Comm> of_thread = comm.for_thread();
  SSA_CHECK(of_thread, "for_thread: MPI takes no calls from two threads");
  SSA_CHECK(comm.takes_threads(), "takes_threads: found false, expected true where for_thread() is not null");
  SSA_CHECK(of_thread->rank() == comm.rank() && of_thread->size() == comm.size(), "for_thread: other ranks");
  std::thread thread([&] {
    for (int i = 0; i < 20; ++i) check_sends(*of_thread);
  });
  for (int i = 0; i < 20; ++i)
    SSA_CHECK(all_reduce(comm, 1, ReduceOp::sum) == comm.size(), "all_reduce: while a thread sends");
  thread.join();
}

void check_collectives(Comm& comm) {
  Stream stream(DeviceKind::cpu);
  check_dtype<float>(comm, stream);
  check_dtype<double>(comm, stream);
  check_dtype<std::int32_t>(comm, stream);
  check_dtype<std::uint8_t>(comm, stream);
  check_dtype<bfloat16>(comm, stream);

  // Sums that round: the same bits on every rank.
  std::vector<float> noise(10007), first(noise.size());
  for (std::size_t i = 0; i < noise.size(); ++i)
    noise[i] = static_cast<float>(random_normal(2, RandomPurpose::test, static_cast<std::uint64_t>(comm.rank()), i));
  const Tensor view(noise.data(), DType::f32, {static_cast<std::int64_t>(noise.size())});
  comm.all_reduce(stream, view);
  first = noise;
  comm.broadcast(stream, Tensor(first.data(), DType::f32, view.shape()), 0);
  SSA_CHECK(std::memcmp(first.data(), noise.data(), view.bytes()) == 0, "all_reduce: the sums differ between ranks");

  // In the order of the ranks, and the same bits from all_reduce and reduce_scatter, of many elements and of few.
  for (const std::int64_t each : {3, 5003}) {
    const auto value = [](int rank, std::int64_t i) {
      return static_cast<float>(random_normal(3, RandomPurpose::test, static_cast<std::uint64_t>(rank), i));
    };
    std::vector<float> own, want, part(static_cast<std::size_t>(each));
    for (std::int64_t i = 0; i < each * comm.size(); ++i) {
      own.push_back(value(comm.rank(), i));
      want.push_back(value(0, i));
      for (int rank = 1; rank < comm.size(); ++rank) want.back() += value(rank, i);
    }
    const Tensor whole(own.data(), DType::f32, {each * comm.size()});
    comm.reduce_scatter(stream, whole, Tensor(part.data(), DType::f32, {each}));
    comm.all_reduce(stream, whole);
    SSA_CHECK(own == want, "all_reduce of ", each, " per rank: not the sum in the order of the ranks");
    SSA_CHECK(std::equal(part.begin(), part.end(), want.begin() + comm.rank() * each), "reduce_scatter of ", each,
              " per rank: not the sum in the order of the ranks");
  }

  SSA_CHECK(all_reduce(comm, comm.rank() + 1.0, ReduceOp::sum) == comm.size() * (comm.size() + 1) / 2.0, "scalar sum");
  SSA_CHECK(all_reduce(comm, comm.rank(), ReduceOp::max) == comm.size() - 1, "scalar max");
  for (int root = 0; root < comm.size(); ++root) {
    SSA_CHECK(broadcast(comm, std::string(static_cast<std::size_t>(comm.rank()) * 3, 'x'), root).size() ==
                  static_cast<std::size_t>(root) * 3,
              "text");
  }
  if (comm.size() > 1) {
    bfloat16 half(1.0f);
    expect_error("bf16 max", [&] { comm.all_reduce(stream, Tensor(&half, DType::bf16, {1}), ReduceOp::max); });
  }
  check_sends(comm);
  check_sends_of_thread(comm);
  // Groups of every other rank, each with a background of its own.
  const std::unique_ptr<Comm> group = comm.split(comm.rank() % 2);
  SSA_CHECK(group->rank() == comm.rank() / 2 && group->size() == (comm.size() + 1 - comm.rank() % 2) / 2,
            "split: rank ", group->rank(), " of ", group->size());
  for (Comm* part : {group.get(), group->background()}) {
    double want = 0;
    for (int rank = comm.rank() % 2; rank < comm.size(); rank += 2) want += rank;
    SSA_CHECK(all_reduce(*part, comm.rank(), ReduceOp::sum) == want, "split: sum of a group");
  }
  std::vector<float> five(5), two(2);
  expect_error("parts", [&] {
    comm.all_gather(stream, Tensor(two.data(), DType::f32, {2}), Tensor(five.data(), DType::f32, {5}));
  });
  expect_error("root", [&] { comm.broadcast(stream, Tensor(two.data(), DType::f32, {2}), comm.size()); });
}

/// A tensor in device memory, from and to the host.
template <class T>
struct OnDevice {
  OnDevice(Stream& of, const std::vector<T>& values)
      : stream(of),
        buffer(of, std::max<std::size_t>(values.size() * sizeof(T), 1)),
        tensor(buffer.data(), kDTypeOf<T>, {static_cast<std::int64_t>(values.size())}) {
    stream.copy(tensor.data(), values.data(), tensor.bytes());
    stream.synchronize();
  }
  std::vector<T> read() {
    std::vector<T> values(static_cast<std::size_t>(tensor.count()));
    stream.copy(values.data(), tensor.data(), tensor.bytes());
    stream.synchronize();
    return values;
  }

  Stream& stream;
  Buffer buffer;
  Tensor tensor;
};

/// What host memory over MPI gives, device memory gives: the same calls on the same values. Whole numbers, as above.
template <class T>
void check_device_dtype(Comm& comm, Stream& stream) {
  Stream host(DeviceKind::cpu);
  for (const std::int64_t count : {0, 1, 3, 64, 1001, 40007}) {
    const auto whole = static_cast<std::size_t>(count * comm.size());
    std::vector<T> own(whole);
    for (std::size_t i = 0; i < whole; ++i) own[i] = T(value_of(comm.rank(), static_cast<std::int64_t>(i)));
    const auto view = [](std::vector<T>& v) {
      return Tensor(v.data(), kDTypeOf<T>, {static_cast<std::int64_t>(v.size())});
    };
    const std::int64_t begin = count * comm.rank();
    const auto part = [&](const Tensor& tensor) { return tensor.rows(begin, begin + count); };
    for (const ReduceOp op : {ReduceOp::sum, ReduceOp::max, ReduceOp::min}) {
      std::vector<T> want = own;
      OnDevice<T> got(stream, own);
      comm.all_reduce(host, view(want), op);
      comm.all_reduce(stream, got.tensor, op);
      SSA_CHECK(got.read() == want, "device all_reduce of ", count, " ", name_of(kDTypeOf<T>));
    }
    for (const bool in_place : {false, true}) {
      std::vector<T> want = own, want_part(static_cast<std::size_t>(count));
      OnDevice<T> got(stream, own), got_part(stream, want_part);
      comm.reduce_scatter(host, view(want), in_place ? part(view(want)) : view(want_part));
      comm.reduce_scatter(stream, got.tensor, in_place ? part(got.tensor) : got_part.tensor);
      SSA_CHECK(got.read() == want && got_part.read() == want_part, "device reduce_scatter of ", count);
    }
    for (const bool in_place : {false, true}) {
      std::vector<T> want = own, want_part(own.begin(), own.begin() + count);
      OnDevice<T> got(stream, own), got_part(stream, want_part);
      comm.all_gather(host, in_place ? part(view(want)) : view(want_part), view(want));
      comm.all_gather(stream, in_place ? part(got.tensor) : got_part.tensor, got.tensor);
      SSA_CHECK(got.read() == want, "device all_gather of ", count);
    }
    for (int root = 0; root < comm.size(); ++root) {
      std::vector<T> want = own;
      OnDevice<T> got(stream, own);
      comm.broadcast(host, view(want), root);
      comm.broadcast(stream, got.tensor, root);
      SSA_CHECK(got.read() == want, "device broadcast of ", count);
    }
  }
}

void check_device_collectives() {
  const auto comm = make_comm(DeviceKind::cuda);
  Stream stream(DeviceKind::cuda, comm->local_rank());
  check_device_dtype<float>(*comm, stream);
  check_device_dtype<double>(*comm, stream);
  check_device_dtype<std::int32_t>(*comm, stream);
  check_device_dtype<std::uint8_t>(*comm, stream);

  // Sums that round: the same bits on every rank, and again.
  std::vector<float> noise(1000003);
  for (std::size_t i = 0; i < noise.size(); ++i)
    noise[i] = static_cast<float>(random_normal(2, RandomPurpose::test, static_cast<std::uint64_t>(comm->rank()), i));
  OnDevice<float> sum(stream, noise), again(stream, noise);
  comm->all_reduce(stream, sum.tensor);
  comm->all_reduce(stream, again.tensor);
  const std::vector<float> mine = sum.read();
  SSA_CHECK(again.read() == mine, "device all_reduce: two runs differ");
  comm->broadcast(stream, sum.tensor, 0);
  SSA_CHECK(sum.read() == mine, "device all_reduce: the sums differ between ranks");
  expect_error("parts",
               [&] { comm->all_gather(stream, again.tensor.rows(0, 5), again.tensor.rows(0, 5 * comm->size() + 1)); });
}

/// No rank is past the barrier before the last has come to it.
void check_barrier(Comm& comm) {
  using Clock = std::chrono::steady_clock;
  const auto begin = Clock::now();
  comm.barrier();
  if (comm.rank() == comm.size() - 1) std::this_thread::sleep_for(std::chrono::milliseconds(300));
  comm.barrier();
  SSA_CHECK(Clock::now() - begin > std::chrono::milliseconds(250), "barrier: did not wait for rank ", comm.size() - 1);
}

/// Rank `at_fault` stops in `phase`; the others start one collective after the other, on a GPU each with `kind` cuda.
void disturb(const std::string& mode, int at_fault, const std::string& phase_name, DeviceKind kind) {
  const double start = kind == DeviceKind::cpu ? 4 : 60;  // NCCL takes some seconds
  const PhaseTimeouts timeouts{.start = start, .step = 3, .save = 5, .evaluation = 6};
  catch_stop_signals();  // as ssa_train does: a rank that waits for others at the start prints before it ends
  const int launched_rank = std::atoi(std::getenv("OMPI_COMM_WORLD_RANK"));
  if (mode == "never-starts" && launched_rank == at_fault) std::this_thread::sleep_for(std::chrono::seconds(100));
  if (mode == "exits-at-once" && launched_rank == at_fault) return;
  if (mode == "fails-at-once" && launched_rank == at_fault) fail("shard-00000.bin: damaged");
  const auto comm = make_comm(kind, timeouts);
  Stream stream(kind, comm->local_rank());
  OnDevice<float> sum(stream, std::vector<float>(1000, 0.0f));
  const Phase phase = phase_name == "start"  ? Phase::start
                      : phase_name == "step" ? Phase::step
                      : phase_name == "save" ? Phase::save
                                             : Phase::evaluation;
  for (int step = 1; step <= 10000; ++step) {
    enter_phase(step < 10 ? Phase::start : step < 20 ? Phase::step : phase, step);
    comm->all_reduce(stream, sum.tensor);
    stream.synchronize();
    if (step != 20 || comm->rank() != at_fault) continue;
    if (mode == "stopped-thread") std::this_thread::sleep_for(std::chrono::seconds(100));
    std::this_thread::sleep_for(std::chrono::milliseconds(500));  // a heartbeat of this phase
    if (mode == "stopped-process") ::raise(SIGSTOP);
    if (mode == "killed") ::raise(SIGKILL);
    if (mode == "returns-early") return;
  }
}

/// A rank that has `seconds` to start MPI and does not.
void wait_to_start(int seconds) {
  const StartGuard guard(seconds);
  std::this_thread::sleep_for(std::chrono::seconds(100));
}

int run(const std::string& mode, int expected_size) {
  const auto comm = make_comm();
  SSA_CHECK(comm->size() == expected_size, comm->size(), " ranks, expected ", expected_size);
  SSA_CHECK(comm->local_rank() == comm->rank(), "local rank ", comm->local_rank(), " of rank ", comm->rank());
  SSA_CHECK(comm->local_size() == comm->size(), comm->local_size(), " ranks on this machine, expected ", comm->size());
  const int last = comm->size() - 1;
  if (mode == "collectives") {
    check_collectives(*comm);
    check_barrier(*comm);
    if (comm->size() > 1) {
      MpiComm chunked(97);  // the larger sizes are cut into many calls, the last of them shorter
      check_collectives(chunked);
    }
    std::cout << "checked " << comm->size() << " ranks\n";
  } else if (mode == "device-collectives") {
    check_device_collectives();
    std::cout << "checked " << comm->size() << " GPUs\n";
  } else if (mode == "error-on-all") {
    fail_usage("confg.json: misspelt");
  } else if (mode == "error-on-last" || mode == "error-on-first") {
    if (comm->rank() == (mode == "error-on-last" ? last : 0)) fail("shard-00000.bin: damaged");
    comm->barrier();  // the others hang here until they are ended
  } else if (mode == "error-on-all-but-first") {
    if (comm->rank() > 0) throw std::runtime_error("not an ssa::Error");
    comm->barrier();
  } else if (mode == "abort") {
    if (comm->rank() == last) abort_all(kExitStopped);
    comm->barrier();
  } else if (mode == "stopped") {
    return kExitStopped;
  }
  return kExitDone;
}

}  // namespace

int main(int argc, char** argv) {
  return run_ranks([&] {
    SSA_CHECK(argc == 3 || argc == 6, "usage: comm_ranks MODE RANKS [RANK PHASE DEVICE], or waits-to-start SECONDS");
    if (argc == 3 && argv[1] == std::string("waits-to-start")) wait_to_start(std::atoi(argv[2]));
    if (argc == 3) return run(argv[1], std::atoi(argv[2]));
    disturb(argv[1], std::atoi(argv[3]), argv[4], parse_device(argv[5]));
    return static_cast<int>(kExitDone);
  });
}
