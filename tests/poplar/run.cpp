// Builds an operation of rbd_ipu/devices/ipu/codelets on the stub of Poplar beside this file, and runs its vertices.
#include "hash_codelets.cpp"
#include "hash_op.cpp"

#include <cstring>

template <typename V> static void compute(poplar::Graph::Added &added) {
  V vertex;
  auto bind = [&](const char *name, std::vector<int *> &places) {
    poplar::Tensor &tensor = added.fields.at(name);
    for (std::size_t i : tensor.at)
      places.push_back(&tensor.memory->at(i));
  };
  bind("head", vertex.head.places);
  bind("tail", vertex.tail.places);
  bind("out", vertex.out.places);
  if (added.fields.size() != 3 || !vertex.compute())
    throw std::logic_error("a vertex failed");
}

// 0, or a number that says what is wrong with the graph; the most items that a tile has come in *largest.
extern "C" int run(const char *name, const int *heads, std::size_t n, const int *tail, std::size_t m, int *out,
                   unsigned tiles, unsigned *largest) {
  try {
    poplar::Graph graph({tiles, 6});
    std::vector<poplar::Tensor> inputs = {poplar::Tensor({n, 2}), poplar::Tensor({m})}, outputs;
    std::memcpy(inputs[0].memory->data(), heads, 2 * n * sizeof(int));
    std::memcpy(inputs[1].memory->data(), tail, m * sizeof(int));
    const bool words = !std::strcmp(name, "Words");
    const auto program = (words ? Words : Keys)(graph, inputs, outputs, "", "test");
    if (program.steps != 1 || outputs.size() != 1)
      return 1;
    std::map<unsigned, unsigned> load;
    std::size_t written = 0;
    for (auto &vertex : graph.vertices) {
      if (vertex.tile >= tiles || vertex.codelet != (words ? "RbdWords" : "RbdKeys"))
        return 2;
      for (std::size_t i : vertex.fields.at("out").at) {
        ++written;
        if (graph.tiles.at(i) != vertex.tile)
          return 3; // a vertex writes on its own tile only
      }
      *largest = std::max(*largest, load[vertex.tile] += vertex.fields.at("tail").at.size());
      words ? compute<RbdWords>(vertex) : compute<RbdKeys>(vertex);
    }
    const auto &result = *outputs[0].memory;
    if (written != result.size() || graph.tiles.size() != result.size())
      return 4;
    std::memcpy(out, result.data(), result.size() * sizeof(int));
    return 0;
  } catch (const std::exception &error) {
    return -1;
  }
}
