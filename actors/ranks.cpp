#include "actors/ranks.hpp"

#include <set>
#include <utility>
#include <variant>

#include "base/check.hpp"

namespace troupe::actors {

Result<std::unique_ptr<Ranks>> Ranks::load(
    const model::ModelConfig& config, const std::shared_ptr<const model::RouterWeights>& weights,
    const kernels::Backend& backend, const KvShape& kv) {
  TRY(check_limits(config, *backend.ops));
  TRY(check_devices(config, backend.num_devices()));
  std::unique_ptr<Ranks> ranks(new Ranks());
  for (size_t k = 0; k < backend.num_devices(); ++k) {
    const kernels::Backend& device = backend.of_rank(k);
    kernels::Memory& memory = *device.memory;
    KvShape shape = kv;
    if (k > 0) shape.num_host_slots = 0;
    auto placed = TRY(place(weights, memory, {.rank = k, .num_ranks = backend.num_devices()}));
    KvOnDevice kv_there;
    if (!memory.is_host()) kv_there = TRY(allocate_kv(shape, memory));
    TRY(memory.finish());  // what could not be copied is an error of loading
    ranks->ranks_.push_back(std::unique_ptr<Rank>(new Rank{
        .backend = device,
        .weights = std::move(placed),
        .kv = KvStore(shape, memory, std::move(kv_there)),
    }));
  }
  if (ranks->count() > 1) ranks->threads_ = std::make_unique<kernels::ThreadPool>(ranks->count());
  return ranks;
}

void Ranks::write_block(BlockId id, const std::byte* from) const {
  for (const auto& rank : ranks_) rank->kv.write_block(id, from);
}

void Ranks::copy_blocks(const std::vector<kvcache::Copy>& copies) const {
  const KvStore& first = ranks_[0]->kv;
  if (count() == 1) return first.copy(copies);
  // The slots of the host tier are filled by the first rank and read by all, whose copies know no
  // order among each other: whoever is to be before waits.
  std::set<uint32_t> filled, read;
  const auto finish = [&] {
    // Those that read first: in the emulator that shows whether they waited for who fills.
    for (size_t k = count(); k-- > 0;) finish_or_end(ranks_[k]->kv.memory());
    filled.clear();
    read.clear();
  };
  for (const kvcache::Copy& copy : copies) {
    if (const auto* out = std::get_if<kvcache::CopyToHost>(&copy)) {
      if (read.contains(out->to.value)) finish();
      first.begin_copy(*out, first);
      filled.insert(out->to.value);
    } else if (const auto* in = std::get_if<kvcache::CopyToDevice>(&copy)) {
      if (filled.contains(in->from.value)) finish();
      for (const auto& rank : ranks_) rank->kv.begin_copy(*in, first);
      read.insert(in->from.value);
    } else {
      const auto& within = std::get<kvcache::CopyBlock>(copy);
      for (const auto& rank : ranks_) rank->kv.begin_copy(within, first);
    }
  }
  finish();
}

ParallelForward::ParallelForward(const model::ModelConfig& config, Ranks& ranks, AttentionForm form,
                                 ExchangeRows exchange_rows)
    : ranks_(ranks) {
  forwards_.reserve(ranks.count());
  for (size_t k = 0; k < ranks.count(); ++k) {
    Rank& rank = ranks[k];
    forwards_.emplace_back(config, *rank.weights, *rank.backend.ops, rank.kv, form,
                           k == 0 ? exchange_rows : ExchangeRows::kInPlace,
                           rank.backend.collective.get());
  }
}

Result<void> ParallelForward::make_room(size_t num_rows, size_t num_logits, size_t num_others) {
  TRY(forwards_[0].make_room(num_rows, num_logits, num_others));
  for (size_t k = 1; k < forwards_.size(); ++k) TRY(forwards_[k].make_room(num_rows, 0, 0));
  return {};
}

void ParallelForward::begin(std::span<const StepSequence> sequences) {
  if (forwards_.size() > 1) {
    without_logits_.assign(sequences.begin(), sequences.end());
    for (StepSequence& sequence : without_logits_) sequence.num_logits = 0;
  }
  ranks_.for_each(
      [&](size_t k) { forwards_[k].begin(k == 0 ? sequences : std::span(without_logits_)); });
}

Forward::Status ParallelForward::advance() {
  // By the one of the first rank: all go through the same layers.
  Forward::Status status = Forward::Status::kDone;
  ranks_.for_each([&](size_t k) {
    const Forward::Status of_rank = forwards_[k].advance();
    if (k == 0) status = of_rank;
  });
  return status;
}

void ParallelForward::compute_shared() {
  ranks_.for_each([&](size_t k) { forwards_[k].compute_shared(); });
}

}  // namespace troupe::actors
