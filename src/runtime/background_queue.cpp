#include "ssa/runtime/background_queue.h"

#include <omp.h>
#include <pthread.h>

#include <condition_variable>
#include <csignal>
#include <cstdio>
#include <deque>
#include <exception>
#include <map>
#include <mutex>
#include <thread>
#include <utility>

namespace ssa {

/// The second stream and, on the CPU, its thread.
struct BackgroundQueue::Worker {
  Worker(Stream& main, const char* name) : stream(Stream::beside(main)) {
    if (stream.kind() != DeviceKind::cpu) return;
    // Signals are for the main thread.
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    thread = std::thread([this, name] {
      pthread_setname_np(pthread_self(), name);
      loop();
    });
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }
  ~Worker() {
    {
      const std::lock_guard lock(mutex);
      ending = true;
    }
    changed.notify_all();
    if (thread.joinable()) thread.join();
    try {
      stream.synchronize();  // CUDA: the work may use memory that is freed after this
    } catch (const std::exception& e) {
      std::fprintf(stderr, "background queue: %s\n", e.what());
    }
  }

  void loop() {
    omp_set_num_threads(1);
    std::unique_lock lock(mutex);
    for (;;) {
      changed.wait(lock, [&] { return ending || !queued.empty(); });
      if (queued.empty()) return;
      const std::function<void(Stream&)> work = std::move(queued.front());
      queued.pop_front();
      if (!error) {
        lock.unlock();
        std::exception_ptr thrown;
        try {
          work(stream);
        } catch (...) {
          thrown = std::current_exception();
        }
        lock.lock();
        error = thrown;
      }
      ++done;
      changed.notify_all();
    }
  }

  Stream stream;
  std::map<Ticket, std::shared_ptr<Stream::Event>> events;  ///< CUDA: of the work that wait() has not waited for

  // On the CPU.
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<std::function<void(Stream&)>> queued;
  Ticket done = 0;
  bool ending = false;
  std::exception_ptr error;  ///< of the first work that threw: what is queued after it does not run
  std::thread thread;
};

BackgroundQueue::BackgroundQueue(Stream& main, bool concurrent, const char* name) : main_(main) {
  if (concurrent) worker_ = std::make_unique<Worker>(main, name);
}

BackgroundQueue::~BackgroundQueue() = default;

BackgroundQueue::Ticket BackgroundQueue::run(std::function<void(Stream&)> work) {
  const Ticket ticket = ++last_;
  if (!worker_) {
    work(main_);
  } else if (main_.kind() == DeviceKind::cpu) {
    const std::lock_guard lock(worker_->mutex);
    worker_->queued.push_back(std::move(work));
    worker_->changed.notify_all();
  } else {
    worker_->stream.wait(*main_.record());
    work(worker_->stream);
    worker_->events.emplace(ticket, worker_->stream.record());
  }
  return ticket;
}

void BackgroundQueue::wait(Ticket ticket) {
  if (!worker_ || ticket == 0) return;
  if (main_.kind() == DeviceKind::cpu) {
    std::unique_lock lock(worker_->mutex);
    worker_->changed.wait(lock, [&] { return worker_->done >= ticket || worker_->error; });
    if (worker_->error) std::rethrow_exception(worker_->error);
    return;
  }
  // Work runs in the order in which it was queued: an event covers those before it.
  const auto event = worker_->events.find(ticket);
  if (event == worker_->events.end()) return;
  main_.wait(*event->second);
  worker_->events.erase(worker_->events.begin(), std::next(event));
}

}  // namespace ssa
