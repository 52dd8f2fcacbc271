#include "model/checkpoint_source.hpp"

#include <deque>
#include <string>
#include <utility>
#include <vector>

#include "base/check.hpp"
#include "model/dequantise.hpp"
#include "model/tensor_visitors.hpp"

namespace troupe::model {
namespace {

/// Has everything mapped as it is stored, in a view of its own by name.
class StoredVisitor final : public TensorVisitor {
 public:
  StoredVisitor(LoadingVisitor& loader, std::map<std::string, WeightView>& tensors)
      : loader_(loader), tensors_(tensors) {}

  Result<void> matrix(const std::string& name, uint64_t out, uint64_t in, WeightView&) override {
    return loader_.table(name, out, in, tensors_[name]);
  }
  Result<void> table(const std::string& name, uint64_t out, uint64_t in, WeightView&) override {
    // A tied head is the embedding again.
    const auto [at, is_new] = tensors_.try_emplace(name);
    return is_new ? loader_.table(name, out, in, at->second) : Result<void>();
  }
  Result<void> key_value(const std::string& name, const KeyValueShape& s,
                         AttentionWeights&) override {
    const std::string whole = name + ".weight";
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
  LoadingVisitor& loader_;
  std::map<std::string, WeightView>& tensors_;
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

Result<std::unique_ptr<const CheckpointSource>> CheckpointSource::open(
    const Checkpoint& checkpoint) {
  const ModelConfig& config = checkpoint.config();
  if (config.quantised) {
    return Error{Code::kUnsupported, checkpoint.directory() + " is quantised already (experts " +
                                         config.quantised->experts + ", the rest " +
                                         config.quantised->rest +
                                         "); begin with the original checkpoint"};
  }
  if (config.published) {
    return Error{Code::kUnsupported, checkpoint.directory() + " is quantised already (" +
                                         std::string(to_string(config.published->format)) +
                                         "); begin with the original checkpoint"};
  }
  const TensorStore store = TRY(TensorStore::open(checkpoint.directory()));
  std::unique_ptr<CheckpointSource> source(new CheckpointSource());
  LoadingVisitor loader(config, store);
  StoredVisitor visitor(loader, source->tensors_);
  RouterWeights unused_router;
  TRY(visit_router(config, visitor, unused_router));
  std::deque<NumberedExpert> experts;  // the loader keeps addresses of their views
  for (LayerIdx layer = 0; layer < config.num_layers; ++layer) {
    if (!config.is_moe_layer(layer)) continue;
    const ExpertLayout layout = store.find(fused_experts_name(layer)) != nullptr
                                    ? ExpertLayout::kFused
                                    : ExpertLayout::kPerExpert;
    for (ExpertIdx expert = 0; expert < config.num_routed_experts; ++expert) {
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
  switch (tensors_.at(name).dtype) {
    case DType::kF32:
    case DType::kF16: return DType::kF32;
    default: return DType::kBF16;
  }
}

Result<void> CheckpointSource::read(const std::string& name, uint64_t in, uint64_t first,
                                    uint64_t count, float* values) const {
  const WeightView& view = tensors_.at(name);
  CHECK_EQ(view.in, in);
  CHECK_LE(first + count, view.out);
  const size_t row_bytes = in * size_of(view.dtype);
  to_float32({static_cast<const std::byte*>(view.data) + first * row_bytes, count * row_bytes},
             view.dtype, {values, count * in});
  if (view.scales != nullptr) apply_block_scales({values, count * in}, first, in, view.scales);
  return {};
}

}  // namespace troupe::model
