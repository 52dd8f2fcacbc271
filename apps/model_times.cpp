#include "apps/model_times.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <memory>
#include <utility>

#include "apps/bench_results.hpp"
#include "apps/machine_rates.hpp"
#include "apps/own_process.hpp"
#include "apps/version.hpp"
#include "base/random.hpp"
#include "kernels/cpu_claims.hpp"
#include "loadgen/statistics.hpp"

namespace troupe::apps {
namespace json = boost::json;
namespace {

using Clock = std::chrono::steady_clock;
using actors::StepWork;

/// Runs tests on a model with random tokens.
class Runner {
 public:
  Runner(actors::LocalModel& model, const ModelTimesOptions& options)
      : model_(model),
        seed_(options.seed),
        chunk_tokens_(options.model.chunk_tokens),
        sequences_(options.model.num_sequences),
        tokens_(options.model.num_sequences) {}

  /// Has each sequence of the test hold `depth` positions, of the same tokens but in its own
  /// memory.
  void prepare(const ModelTest& test) {
    if (filled_ < test.depth) {
      prefill(filled_, test.depth - filled_, 0);
      filled_ = test.depth;
    }
    for (uint32_t s = 1; s < test.num_sequences; ++s) model_.copy_kv(0, s, test.depth);
  }

  /// All steps of a test, behind those positions.
  StepWork run(const ModelTest& test) {
    filled_ = std::min(filled_, test.depth);
    if (test.num_prompt > 0) return prefill(test.depth, test.num_prompt, 1);
    StepWork work;
    for (uint32_t i = 0; i < test.num_generated; ++i) {
      for (uint32_t s = 0; s < test.num_sequences; ++s) {
        tokens_[s] = random_token();
        sequences_[s] = {.tokens = {&tokens_[s], 1},
                         .first_position = test.depth + i,
                         .block_table = model_.block_table(s),
                         .num_logits = 1};
      }
      model_.step(std::span(sequences_).first(test.num_sequences));
      work += model_.last_work();
    }
    return work;
  }

 private:
  TokenId random_token() {
    return static_cast<TokenId>(random_bits(seed_, draw_++) % model_.config().vocab_size);
  }

  /// A prompt of sequence 0 in chunks; logits of the last token if wanted.
  StepWork prefill(uint32_t first_position, uint32_t num_tokens, uint32_t num_logits) {
    std::vector<TokenId> prompt(num_tokens);
    std::ranges::generate(prompt, [&] { return random_token(); });
    StepWork work;
    for (uint32_t at = 0; at < num_tokens;) {
      const uint32_t count = std::min(chunk_tokens_, num_tokens - at);
      const actors::StepSequence chunk{.tokens = std::span(prompt).subspan(at, count),
                                       .first_position = first_position + at,
                                       .block_table = model_.block_table(0),
                                       .num_logits = at + count == num_tokens ? num_logits : 0};
      model_.step({&chunk, 1});
      work += model_.last_work();
      at += count;
    }
    return work;
  }

  actors::LocalModel& model_;
  uint64_t seed_;
  uint64_t draw_ = 0;
  uint32_t chunk_tokens_;
  uint32_t filled_ = 0;  ///< positions of sequence 0 that no test wrote over
  std::vector<actors::StepSequence> sequences_;
  std::vector<TokenId> tokens_;
};

/// What is said of the model in every row.
struct ModelFacts {
  std::string directory;
  std::string name;
  uint64_t weight_bytes = 0;
  uint64_t num_parameters = 0;
  std::string format;  ///< "BF16", "I4+BF16": types with at least a hundredth of the bytes
  std::vector<std::pair<DType, uint64_t>> bytes_by_dtype;
};

ModelFacts facts_of(const model::Checkpoint& checkpoint) {
  const model::Checkpoint::Summary summary = checkpoint.summary();
  const auto path = std::filesystem::absolute(checkpoint.directory()).lexically_normal();
  ModelFacts facts{.directory = checkpoint.directory(),
                   .name = (path.has_filename() ? path : path.parent_path()).filename(),
                   .num_parameters = summary.total_parameters,
                   .bytes_by_dtype = summary.bytes_by_dtype};
  for (const auto& [dtype, bytes] : facts.bytes_by_dtype) facts.weight_bytes += bytes;
  auto by_size = facts.bytes_by_dtype;
  std::ranges::stable_sort(by_size, std::ranges::greater{}, &std::pair<DType, uint64_t>::second);
  for (const auto& [dtype, bytes] : by_size) {
    if (bytes * 100 < facts.weight_bytes) continue;
    facts.format += (facts.format.empty() ? "" : "+") + std::string(to_string(dtype));
  }
  return facts;
}

void describe_model(const ModelFacts& facts, json::object& values) {
  values["model_filename"] = facts.directory;
  values["model_type"] = facts.name;
  values["model_size"] = facts.weight_bytes;
  values["model_n_params"] = facts.num_parameters;
  values["format"] = facts.format;
  for (const auto& [dtype, bytes] : facts.bytes_by_dtype) {
    values["bytes_" + std::string(to_string(dtype))] = bytes;
  }
}

/// The cells that every row begins with.
std::vector<std::string> model_cells(const ModelFacts& facts,
                                     const actors::LocalModelOptions& options, const char* target) {
  const bool large = facts.weight_bytes >> 30U > 0;
  return {facts.name,
          formatted(large ? "%.2f GiB" : "%.2f MiB",
                    std::ldexp(static_cast<double>(facts.weight_bytes), large ? -30 : -20)),
          formatted("%.2f %s",
                    static_cast<double>(facts.num_parameters) *
                        (facts.num_parameters >= 1'000'000'000 ? 1e-9 : 1e-6),
                    facts.num_parameters >= 1'000'000'000 ? "B" : "M"),
          facts.format,
          std::string(to_string(options.kv_dtype)),
          std::to_string(options.num_threads),
          target};
}

/// Standard deviation of a sample, as in llama-bench; 0 for a single value.
double sample_deviation(const loadgen::Distribution& values) {
  const auto n = static_cast<double>(values.count());
  return n < 2 ? 0 : values.standard_deviation() * std::sqrt(n / (n - 1));
}

json::array list_of(const std::vector<double>& numbers) {
  return json::array(numbers.begin(), numbers.end());
}

/// The repetitions of a test, and what they had to read and compute together.
struct Measured {
  ModelTest test;
  std::vector<double> seconds;
  StepWork work;
};

void add_row(const Measured& measured, const MachineRates& rates, uint32_t chunk_tokens,
             loadgen::ResultTable::Row& row) {
  const auto& [test, seconds, work] = measured;
  const auto tokens = static_cast<double>(test.num_tokens());
  std::vector<double> rate, nanoseconds;
  double total_s = 0;
  for (const double s : seconds) {
    rate.push_back(tokens / s);
    nanoseconds.push_back(std::round(s * 1e9));
    total_s += s;
  }
  const loadgen::Distribution ts(rate), ns(nanoseconds);
  // Of all repetitions together, as the experts that are chosen differ.
  const auto total_tokens = tokens * static_cast<double>(seconds.size());
  const auto bytes = static_cast<double>(work.weight_bytes + work.kv_bytes);
  const auto floats = static_cast<double>(work.float_multiply_adds);
  const auto integers = static_cast<double>(work.integer_multiply_adds);
  const double read = rates.bandwidth_fraction(bytes, total_s);
  const double peak = rates.peak.fraction(floats, integers, total_s);
  const uint32_t steps_per_run = test.num_prompt > 0
                                     ? (test.num_prompt + chunk_tokens - 1) / chunk_tokens
                                     : test.num_generated;
  const double steps = static_cast<double>(steps_per_run) * static_cast<double>(seconds.size());

  json::object& values = row.values;
  values["test"] = test.name();
  values["n_prompt"] = test.num_prompt;
  values["n_gen"] = test.num_generated;
  values["n_depth"] = test.depth;
  values["n_sequences"] = test.num_sequences;
  values["n_ubatch"] = chunk_tokens;
  values["avg_ns"] = ns.mean();
  values["stddev_ns"] = sample_deviation(ns);
  values["avg_ts"] = ts.mean();
  values["stddev_ts"] = sample_deviation(ts);
  values["median_ts"] = ts.percentile(50);
  values["samples_ns"] = list_of(nanoseconds);
  values["samples_ts"] = list_of(rate);
  values["experts_per_step"] = static_cast<double>(work.num_experts) / steps;
  values["weight_bytes_per_step"] = static_cast<double>(work.weight_bytes) / steps;
  values["kv_bytes_per_step"] = static_cast<double>(work.kv_bytes) / steps;
  values["float_multiply_adds_per_token"] = floats / total_tokens;
  values["integer_multiply_adds_per_token"] = integers / total_tokens;
  values["bandwidth_fraction"] = read;
  values["peak_fraction"] = peak;

  row.cells.push_back(test.name());
  row.cells.push_back(formatted("%.2f ± %.2f", ts.mean(), sample_deviation(ts)));
  row.cells.push_back(formatted("%.2f", ts.percentile(50)));
  row.cells.push_back(formatted("%.1f", bytes / steps * 1e-6));
  row.cells.push_back(percent(read));
  row.cells.push_back(formatted("%.1f", (floats + integers) / total_tokens * 1e-6));
  row.cells.push_back(percent(peak));
  if (rates.products) {
    const double products = rates.products->fraction(floats, integers, total_s);
    values["product_fraction"] = products;
    row.cells.push_back(percent(products));
  }
}

/// Runs a prompt on a model that was loaded a moment ago.
/// @param opened when the checkpoint was about to be opened @param loaded when weights were mapped
void add_cold_start(Runner& runner, uint32_t num_prompt, const ModelFacts& facts,
                    Clock::time_point opened, Clock::time_point loaded, loadgen::ResultTable& table,
                    loadgen::ResultTable::Row& row) {
  const ModelTest prompt{.num_prompt = num_prompt};
  runner.run(prompt);
  const auto ms = [](std::chrono::duration<double> time) { return time.count() * 1e3; };
  const double since_start_ms = process_age_s() * 1e3;
  const double since_open_ms = ms(Clock::now() - opened), load_ms = ms(loaded - opened);
  const uint64_t resident = process_memory("VmRSS"), peak = process_memory("VmHWM");
  const auto over_weights = [&](uint64_t bytes) {
    return static_cast<double>(bytes) / static_cast<double>(facts.weight_bytes);
  };
  const uint64_t from_disk = read_from_disk();

  json::object& values = row.values;
  values["test"] = "cold start " + prompt.name();
  values["n_prompt"] = num_prompt;
  values["load_ms"] = load_ms;
  values["first_token_ms"] = since_open_ms;
  values["first_token_since_process_start_ms"] = since_start_ms;
  values["read_from_disk_bytes"] = from_disk;
  values["resident_bytes"] = resident;
  values["peak_resident_bytes"] = peak;
  values["resident_over_weights"] = over_weights(resident);
  values["peak_resident_over_weights"] = over_weights(peak);
  row.cells.push_back("cold start " + prompt.name());
  row.cells.resize(table.titles.size());
  table.notes.push_back(formatted(
      "Cold start: first token after a prompt of %u tokens %.0f ms after the checkpoint was opened "
      "(%.0f ms after the process started), loaded after %.0f ms; %.0f MB read from disk.",
      num_prompt, since_open_ms, since_start_ms, load_ms, static_cast<double>(from_disk) * 1e-6));
  table.notes.push_back(
      formatted("Resident then: %.0f MB, %.2f of the weights' size; at most %.0f MB, %.2f.",
                static_cast<double>(resident) * 1e-6, over_weights(resident),
                static_cast<double>(peak) * 1e-6, over_weights(peak)));
}

/// Pins the threads of the model that is loaded next. @param note what came of it
std::unique_ptr<kernels::CpuClaims> pin_threads(ModelTimesOptions& options, std::string& note) {
  if (!options.pin_threads) return nullptr;
  auto claims = kernels::CpuClaims::claim(options.model.num_threads);
  if (!claims.ok()) {
    note = "Threads are not pinned: " + claims.error().message + ".";
    return nullptr;
  }
  options.model.cpus = (*claims)->cpus();
  note = "Threads are pinned to CPUs " + kernels::cpu_list(options.model.cpus) + ".";
  return std::move(*claims);
}

}  // namespace

std::string ModelTest::name() const {
  std::string text = num_prompt > 0 ? "pp" : "tg";
  text += std::to_string(tokens_per_sequence());
  if (num_sequences > 1) text += " b" + std::to_string(num_sequences);
  if (depth > 0) text += " @ d" + std::to_string(depth);
  return text;
}

Result<loadgen::ResultTable> measure_model(const std::string& directory, ModelTimesOptions options,
                                           kernels::Backend backend) {
  MeasuringLine line;
  std::string pinned = "Threads are not pinned.";
  const auto claims = pin_threads(options, pinned);
  line.show("loading " + directory);
  const auto opened = Clock::now();
  const auto checkpoint = TRY(model::Checkpoint::open(directory));
  if (options.model.max_context > checkpoint.config().max_position_embeddings) {
    return Error{Code::kInvalidArgument,
                 std::to_string(options.model.max_context) + " positions exceed the model's " +
                     std::to_string(checkpoint.config().max_position_embeddings)};
  }
  const bool on_device = backend.ops != nullptr;
  const auto local = TRY(actors::LocalModel::load(checkpoint, options.model, std::move(backend)));
  local->pool().pin_caller();
  const auto loaded = Clock::now();

  const ModelFacts facts = facts_of(checkpoint);
  const std::string date = utc_now();
  loadgen::ResultTable table;
  table.titles = {"model", "size", "params", "weights", "KV",        "threads", "target",
                  "test",  "t/s",  "median", "MB/step", "bandwidth", "M/token", "peak"};
  if (!on_device) table.titles.emplace_back("products");
  const auto new_row = [&] {
    loadgen::ResultTable::Row row;
    row.cells = model_cells(facts, options.model, local->target());
    row.values["troupe_version"] = kVersion;
    row.values["test_time"] = date;
    describe_model(facts, row.values);
    row.values["kv_dtype"] = to_string(options.model.kv_dtype);
    row.values["seed"] = options.seed;
    row.values["cpus"] = kernels::cpu_list(options.model.cpus);
    return row;
  };
  Runner runner(*local, options);
  if (options.cold_start) {
    loadgen::ResultTable::Row row = new_row();
    add_cold_start(runner, options.cold_prompt, facts, opened, loaded, table, row);
    table.rows.push_back(std::move(row));
  }
  if (options.tests.empty()) return table;
  if (!on_device) {
    line.show("reading the weights");
    local->read_weights();
  }
  const auto machine = on_device ? make_device_machine(local->backend())
                                 : make_cpu_machine(local->pool(), local->ops());
  line.show("measuring the machine");
  const MachineRates before = TRY(machine->measure());
  std::vector<Measured> all;
  for (const ModelTest& test : options.tests) {
    line.show(test.name() + ": preparing");
    runner.prepare(test);
    runner.run(test);
    Measured measured{.test = test};
    for (uint32_t r = 0; r < options.repetitions; ++r) {
      line.show(formatted("%s: %u of %u", test.name().c_str(), r + 1, options.repetitions));
      const auto start = Clock::now();
      measured.work += runner.run(test);
      measured.seconds.push_back(seconds_since(start));
    }
    all.push_back(std::move(measured));
  }
  line.show("measuring the machine again");
  const MachineRates rates = best_of(before, TRY(machine->measure()));
  table.notes.push_back(machine->note(rates));
  table.notes.push_back(pinned);
  for (const Measured& measured : all) {
    loadgen::ResultTable::Row row = new_row();
    machine->describe(rates, row.values);
    add_row(measured, rates, options.model.chunk_tokens, row);
    table.rows.push_back(std::move(row));
  }
  return table;
}

}  // namespace troupe::apps
