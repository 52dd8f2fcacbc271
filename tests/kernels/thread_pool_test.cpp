#include "kernels/thread_pool.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <barrier>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

namespace troupe::kernels {
namespace {

TEST(ThreadPool, CallsEachIndexExactlyOnce) {
  for (const size_t num_threads : {1, 2, 3, 5}) {
    ThreadPool pool(num_threads);
    EXPECT_EQ(pool.num_threads(), num_threads);
    for (const size_t n : {0, 1, 2, 7, 100, 1000}) {
      std::vector<std::atomic<int>> calls(n);
      pool.parallel_for(n, [&](size_t i) { calls[i].fetch_add(1); });
      for (const auto& count : calls) EXPECT_EQ(count.load(), 1);
    }
  }
}

TEST(ThreadPool, ResultsOfTasksAreVisibleToTheCallerWithoutOtherSynchronisation) {
  ThreadPool pool(3);
  std::vector<size_t> values(50);
  for (size_t round = 0; round < 2000; ++round) {
    pool.parallel_for(values.size(), [&](size_t i) { values[i] += i; });
  }
  for (size_t i = 0; i < values.size(); ++i) EXPECT_EQ(values[i], 2000 * i);
}

TEST(ThreadPool, RunsTasksOnAllItsThreadsAtOnceTheCallerIncluded) {
  ThreadPool pool(4);
  // Each task waits for three others: a pool with fewer threads would never return.
  std::barrier all_there(4);
  std::mutex mutex;
  std::set<std::thread::id> threads;
  for (int round = 0; round < 50; ++round) {
    pool.parallel_for(4, [&](size_t) {
      all_there.arrive_and_wait();
      const std::lock_guard<std::mutex> lock(mutex);
      threads.insert(std::this_thread::get_id());
    });
  }
  EXPECT_EQ(threads.size(), 4U);
  EXPECT_TRUE(threads.contains(std::this_thread::get_id()));
}

TEST(ThreadPool, TakesOverWhatABusyThreadHasNotBegun) {
  ThreadPool pool(2);
  constexpr int kTasks = 101;
  std::atomic<int> done{0};
  pool.parallel_for(kTasks, [&](size_t i) {
    // The first index ends last: the other thread has to run all that follow it.
    while (i == 0 && done.load() < kTasks - 1) std::this_thread::yield();
    done.fetch_add(1);
  });
  EXPECT_EQ(done.load(), kTasks);
}

TEST(ThreadPool, RunsACallFromInsideATaskInThatTasksThread) {
  ThreadPool pool(3);
  ThreadPool other(2);
  std::atomic<int> inner{0};
  std::atomic<int> elsewhere{0};
  pool.parallel_for(9, [&](size_t) {
    const auto self = std::this_thread::get_id();
    for (ThreadPool* nested : {&pool, &other}) {
      nested->parallel_for(5, [&](size_t) {
        inner.fetch_add(1);
        if (std::this_thread::get_id() != self) elsewhere.fetch_add(1);
      });
    }
  });
  EXPECT_EQ(inner.load(), 90);
  EXPECT_EQ(elsewhere.load(), 0);
}

TEST(ThreadPool, SerialisesCallersFromSeveralThreads) {
  ThreadPool pool(3);
  std::atomic<int> active_caller{-1};
  std::atomic<int> mixed{0};
  std::atomic<int> total{0};
  std::vector<std::thread> callers;
  for (int c = 0; c < 4; ++c) {
    callers.emplace_back([&, c] {
      for (int round = 0; round < 100; ++round) {
        std::atomic<int> left{8};
        pool.parallel_for(8, [&](size_t) {
          int none = -1;
          active_caller.compare_exchange_strong(none, c);
          if (active_caller.load() != c) mixed.fetch_add(1);
          total.fetch_add(1);
          if (left.fetch_sub(1) == 1) active_caller.store(-1);
        });
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(total.load(), 4 * 100 * 8);
  EXPECT_EQ(mixed.load(), 0);
}

TEST(ThreadPoolDeathTest, RefusesToBeEmpty) { EXPECT_DEATH(ThreadPool(0), "num_threads"); }

}  // namespace
}  // namespace troupe::kernels
