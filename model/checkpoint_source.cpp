#include "model/checkpoint_source.hpp"

#include <algorithm>
#include <deque>
#include <string>
#include <utility>
#include <vector>

#include "base/check.hpp"
#include "base/panels.hpp"
#include "model/dequantise.hpp"
#include "model/json.hpp"
#include "model/tensor_visitors.hpp"

namespace troupe::model {
namespace {

/// Has everything mapped as it is stored, in a view of its own by name.
class StoredVisitor final : public TensorVisitor {
 public:
  StoredVisitor(const ModelConfig& config, const TensorStore& store, LoadingVisitor& loader,
                std::map<std::string, WeightView>& tensors,
                std::map<std::string, MappedPublished>& published)
      : store_(store),
        locator_(config, store),
        loader_(loader),
        tensors_(tensors),
        published_(published) {}

  Result<void> matrix(const std::string& name, uint64_t out, uint64_t in, WeightView&) override {
    const LocatedMatrix located = TRY(locator_.matrix(name, out, in));
    if (!located.published) return loader_.table(name, out, in, tensors_[name]);
    if (!is_stored_group(in, located.group)) {
      return Error{Code::kUnsupported, store_.name_of(*located.scales) + " is of groups of " +
                                           std::to_string(located.group) +
                                           "; Troupe's own files have groups of 32, 64, 128 or "
                                           "256, or of whole rows"};
    }
    published_[name] = TRY(map_published(store_, located));
    return {};
  }
  Result<void> table(const std::string& name, uint64_t out, uint64_t in, WeightView&) override {
    // A tied head is the embedding again.
    const auto [at, is_new] = tensors_.try_emplace(name);
    return is_new ? loader_.table(name, out, in, at->second) : Result<void>();
  }
  Result<void> key_value(const std::string& name, const KeyValueShape& s,
                         AttentionWeights&) override {
    const std::string whole = name + ".weight";
    const LocatedKeyValue located = TRY(locator_.key_value(name, s));
    if (located.whole && located.whole->published) {
      published_[whole] = TRY(map_published(store_, *located.whole));
      return {};
    }
    return loader_.table(whole, s.heads * (s.nope + s.v), s.latent, tensors_[whole]);
  }
  Result<void> stacked_matrix(const std::string& name, const Slice& slice,
                              WeightView& view) override {
    return loader_.stacked_matrix(name, slice, view);
  }
  Result<void> floats(const std::string& name, const std::vector<uint64_t>& shape,
                      std::vector<float>&) override {
    if (shape.size() == 2) return loader_.table(name, shape[0], shape[1], tensors_[name]);
    return loader_.vector(name, shape[0], tensors_[name]);
  }

 private:
  const TensorStore& store_;
  TensorLocator locator_;
  LoadingVisitor& loader_;
  std::map<std::string, WeightView>& tensors_;
  std::map<std::string, MappedPublished>& published_;
};

/// Files the views that it is shown under the names of an expert's own matrices.
class NamingVisitor final : public TensorVisitor {
 public:
  explicit NamingVisitor(std::map<std::string, WeightView>& tensors) : tensors_(tensors) {}

  Result<void> matrix(const std::string& name, uint64_t, uint64_t, WeightView& view) override {
    tensors_[name] = view;
    return {};
  }
  // An expert has nothing else.
  Result<void> table(const std::string&, uint64_t, uint64_t, WeightView&) override { return {}; }
  Result<void> key_value(const std::string&, const KeyValueShape&, AttentionWeights&) override {
    return {};
  }
  Result<void> stacked_matrix(const std::string&, const Slice&, WeightView&) override { return {}; }
  Result<void> floats(const std::string&, const std::vector<uint64_t>&,
                      std::vector<float>&) override {
    return {};
  }

 private:
  std::map<std::string, WeightView>& tensors_;
};

struct NumberedExpert {
  LayerIdx layer;
  ExpertIdx expert;
  FfnWeights ffn;
};

}  // namespace

Result<std::unique_ptr<const CheckpointSource>> CheckpointSource::open(const Checkpoint& checkpoint,
                                                                       bool keep) {
  const ModelConfig& config = checkpoint.config();
  if (config.quantised) {
    return Error{Code::kUnsupported, checkpoint.directory() + " is quantised already (experts " +
                                         config.quantised->experts + ", the rest " +
                                         config.quantised->rest +
                                         "); begin with the original checkpoint"};
  }
  if (config.published && !keep) {
    return Error{Code::kUnsupported, checkpoint.directory() + " is quantised already (" +
                                         std::string(to_string(config.published->format)) +
                                         "); keep its integers, or begin with the original "
                                         "checkpoint"};
  }
  if (!config.published && keep) {
    return Error{Code::kUnsupported, checkpoint.directory() + " has no integers to keep"};
  }
  const TensorStore store = TRY(TensorStore::open(checkpoint.directory()));
  std::unique_ptr<CheckpointSource> source(new CheckpointSource());
  LoadingVisitor loader(config, store);
  StoredVisitor visitor(config, store, loader, source->tensors_, source->published_);
  RouterWeights unused_router;
  TRY(visit_router(config, visitor, unused_router));
  std::deque<NumberedExpert> experts;  // the loader keeps addresses of their views
  for (LayerIdx layer = 0; layer < config.num_layers; ++layer) {
    if (!config.is_moe_layer(layer)) continue;
    const ExpertLayout layout = store.find(fused_experts_name(layer)) != nullptr
                                    ? ExpertLayout::kFused
                                    : ExpertLayout::kPerExpert;
    for (ExpertIdx expert = 0; expert < config.num_routed_experts; ++expert) {
      if (layout == ExpertLayout::kPerExpert) {
        FfnWeights unused;
        TRY(visit_expert(config, layout, layer, expert, visitor, unused));
        continue;
      }
      experts.push_back({layer, expert, {}});
      TRY(visit_expert(config, layout, layer, expert, loader, experts.back().ffn));
    }
  }
  source->storage_ = TRY(loader.finish());
  NamingVisitor namer(source->tensors_);
  for (NumberedExpert& e : experts) {
    TRY(visit_expert(config, ExpertLayout::kPerExpert, e.layer, e.expert, namer, e.ffn));
  }
  return std::unique_ptr<const CheckpointSource>(std::move(source));
}

DType CheckpointSource::kept_type(const std::string& name) const {
  if (published_.contains(name)) return DType::kF32;
  switch (tensors_.at(name).dtype) {
    case DType::kF32:
    case DType::kF16: return DType::kF32;
    default: return DType::kBF16;
  }
}

Result<void> CheckpointSource::read(const std::string& name, uint64_t in, uint64_t first,
                                    uint64_t count, float* values) const {
  if (const auto at = published_.find(name); at != published_.end()) {
    CHECK_EQ(first % kPanelRows, size_t{0});
    CHECK_EQ(count % kPanelRows, size_t{0});
    std::ranges::copy(to_floats(at->second.matrix, first / kPanelRows, count / kPanelRows), values);
    return {};
  }
  const WeightView& view = tensors_.at(name);
  CHECK_EQ(view.in, in);
  CHECK_LE(first + count, view.out);
  const size_t row_bytes = in * size_of(view.dtype);
  to_float32({static_cast<const std::byte*>(view.data) + first * row_bytes, count * row_bytes},
             view.dtype, {values, count * in});
  if (view.scales != nullptr) apply_block_scales({values, count * in}, first, in, view.scales);
  return {};
}

std::optional<TensorSource::Integers> CheckpointSource::integers(const std::string& name) const {
  const auto at = published_.find(name);
  if (at == published_.end()) return std::nullopt;
  const PublishedMatrix& m = at->second.matrix;
  return Integers{.scheme = {.dtype = m.dtype,
                             .group = m.group,
                             .zeros = m.dtype == DType::kI4 && !m.zeros.empty()},
                  .scale_dtype = m.scale_dtype == DType::kBF16 ? DType::kBF16 : DType::kF32,
                  .columns = m.columns};
}

Result<void> CheckpointSource::read_panel(const std::string& name, uint64_t panel,
                                          const PanelPart& to) const {
  auto done = to_panel(published_.at(name).matrix, panel, to);
  if (!done.ok()) return std::move(done).error().with_context("tensor " + quoted(name));
  return {};
}

}  // namespace troupe::model
