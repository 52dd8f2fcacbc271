#include "gateway/event_mailbox.hpp"

#include <iterator>
#include <utility>

namespace troupe::gateway {

using scheduler::TokensEmitted;

EventMailbox::EventMailbox(size_t max_entries, std::function<void()> wake)
    : max_entries_(max_entries), wake_(std::move(wake)) {}

bool EventMailbox::push(uint32_t choice, scheduler::ClientEvent event) {
  const std::lock_guard lock(mutex_);
  if (closed_) return true;
  auto* tokens = std::get_if<TokensEmitted>(&event);
  const size_t entries = tokens == nullptr ? 1 : tokens->tokens.size();
  const bool was_empty = waiting_.empty() && !overflowed_;
  const bool fits = !overflowed_ && entries <= max_entries_ - num_entries_;
  if (fits) {
    num_entries_ += entries;
    auto* last = waiting_.empty() || waiting_.back().choice != choice
                     ? nullptr
                     : std::get_if<TokensEmitted>(&waiting_.back().event);
    if (tokens != nullptr && last != nullptr) {
      last->tokens.insert(last->tokens.end(), std::make_move_iterator(tokens->tokens.begin()),
                          std::make_move_iterator(tokens->tokens.end()));
    } else {
      waiting_.push_back({choice, std::move(event)});
    }
  } else {
    overflowed_ = true;
  }
  if (was_empty) wake_();
  return fits;
}

std::vector<ChoiceEvent> EventMailbox::take() {
  const std::lock_guard lock(mutex_);
  num_entries_ = 0;
  return std::exchange(waiting_, {});
}

bool EventMailbox::overflowed() const {
  const std::lock_guard lock(mutex_);
  return overflowed_;
}

void EventMailbox::close() {
  const std::lock_guard lock(mutex_);
  closed_ = true;
  waiting_.clear();
  wake_ = nullptr;
}

}  // namespace troupe::gateway
