// One thread reads, several threads work, and the results come out in the order of reading, so that the output does not
// depend on the number of threads. Own code: it bounds the bytes in flight (oneTBB's parallel_pipeline bounds their
// number) and lets the consumer wait with a timeout.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <map>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace ssa {

template <class In, class Out>
class OrderedPipeline {
 public:
  using Read = std::function<bool(In&)>;  // false at the end
  using Work = std::function<Out(In&&)>;
  enum class Got { item, end, nothing_yet };

  /// `make_work` is called once on each working thread. In has a member function size_t cost(). The items in flight
  /// cost at most `budget` in total, unless there is only one. The destructor waits for the
  /// threads; first it calls `interrupt`, which must make a `read` that waits for input return or throw, and not throw.
  OrderedPipeline(std::size_t workers, std::size_t budget, Read read, std::function<Work()> make_work,
                  std::function<void()> interrupt)
      : budget_(budget), interrupt_(std::move(interrupt)) {
    threads_.emplace_back([this, read = std::move(read)] { read_all(read); });
    for (std::size_t i = 0; i < workers; ++i) threads_.emplace_back([this, make_work] { work_all(make_work); });
  }

  ~OrderedPipeline() {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
    }
    room_.notify_all();
    waiting_.notify_all();
    interrupt_();
    for (std::thread& thread : threads_) thread.join();
  }
  OrderedPipeline(const OrderedPipeline&) = delete;
  OrderedPipeline& operator=(const OrderedPipeline&) = delete;

  /// Waits at most `patience` for the next result. Throws what reading or working threw, in the order of reading.
  Got next(Out& out, std::chrono::milliseconds patience) {
    std::unique_lock lock(mutex_);
    const bool ready = done_.wait_for(lock, patience, [&] { return finished_.count(next_) || at_end(); });
    if (!ready) return Got::nothing_yet;
    if (at_end()) {
      if (read_error_) std::rethrow_exception(read_error_);
      return Got::end;
    }
    auto node = finished_.extract(next_++);
    Result& result = node.mapped();
    in_flight_ -= result.cost;
    lock.unlock();
    room_.notify_one();
    if (result.error) std::rethrow_exception(result.error);
    out = std::move(result.out);
    return Got::item;
  }

 private:
  struct Item {
    std::uint64_t number;
    In in;
  };
  struct Result {
    Out out{};
    std::exception_ptr error;
    std::size_t cost = 0;
  };

  bool at_end() const { return read_done_ && next_ == read_count_; }

  void read_all(const Read& read) {
    std::exception_ptr error;
    try {
      In in;
      while (read(in)) {
        const std::size_t cost = in.cost();
        std::unique_lock lock(mutex_);
        room_.wait(lock, [&] { return stop_ || in_flight_ == 0 || in_flight_ + cost <= budget_; });
        if (stop_) break;
        in_flight_ += cost;
        queue_.push_back({read_count_++, std::move(in)});
        lock.unlock();
        waiting_.notify_one();
        in = In();
      }
    } catch (...) {
      error = std::current_exception();
    }
    const std::lock_guard lock(mutex_);
    read_error_ = error;
    read_done_ = true;
    waiting_.notify_all();
    done_.notify_all();
  }

  void work_all(const std::function<Work()>& make_work) {
    Work work;
    std::exception_ptr broken;
    try {
      work = make_work();
    } catch (...) {
      broken = std::current_exception();
    }
    while (true) {
      std::unique_lock lock(mutex_);
      waiting_.wait(lock, [&] { return stop_ || !queue_.empty() || read_done_; });
      if (stop_ || queue_.empty()) return;
      Item item = std::move(queue_.front());
      queue_.pop_front();
      lock.unlock();
      Result result;
      result.cost = item.in.cost();
      result.error = broken;
      if (!broken) {
        try {
          result.out = work(std::move(item.in));
        } catch (...) {
          result.error = std::current_exception();
        }
      }
      lock.lock();
      finished_.emplace(item.number, std::move(result));
      lock.unlock();
      done_.notify_one();
    }
  }

  const std::size_t budget_;
  const std::function<void()> interrupt_;
  std::mutex mutex_;
  std::condition_variable room_, waiting_, done_;
  std::deque<Item> queue_;
  std::map<std::uint64_t, Result> finished_;
  std::uint64_t read_count_ = 0, next_ = 0;
  std::size_t in_flight_ = 0;
  bool read_done_ = false, stop_ = false;
  std::exception_ptr read_error_;
  std::vector<std::thread> threads_;  // last: they use everything above
};

}  // namespace ssa
