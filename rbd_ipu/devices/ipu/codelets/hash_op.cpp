// The host's side of the integer hash: adds the vertices of hash_codelets.cpp to a Poplar graph, for
// tensorflow.python.ipu.ops.custom_ops.precompiled_user_op (custom operations of level 5, SDK 3.x).
//
//   Words: pairs int32 [n, 2], places int32 [m] -> int32 [n, m]
//   Keys:  seeds int32 [n, 2], parts int32 [m]  -> int32 [n, m, 2]
//
//   g++ -std=c++17 -O2 -fPIC -shared hash_op.cpp -I<poplar>/include -L<poplar>/lib -lpoplar -o librbd_hash.so

#include <poplar/Graph.hpp>
#include <poplar/Program.hpp>

#include <algorithm>
#include <cstdint>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

extern "C" {
int32_t custom_op_api_level = 5;
}

namespace {

// Every item (row r, place i) of the result is `width` words, the whole of them dealt out to the tiles in order. A
// vertex has a piece of one row, and a tile at least as many vertices as it has threads, so that none is idle.
poplar::program::Program dealtOut(poplar::Graph &graph, const std::vector<poplar::Tensor> &inputs,
                                  std::vector<poplar::Tensor> &outputs, const std::string &codelet, size_t width,
                                  const std::string &name) {
  if (inputs.size() != 2 || inputs[0].rank() != 2 || inputs[0].dim(1) != 2 || inputs[1].rank() != 1)
    throw std::runtime_error(codelet + " takes int32 [n, 2] and int32 [m]");
  const poplar::Tensor heads = inputs[0], tail = inputs[1];
  const size_t n = heads.dim(0), m = tail.dim(0), items = n * m;
  std::vector<size_t> shape = {n, m};
  if (width > 1)
    shape.push_back(width);
  poplar::Tensor out = graph.addVariable(poplar::INT, shape, name + "/out");
  outputs.push_back(out);
  const poplar::Tensor flat = out.flatten();

  const poplar::Target &target = graph.getTarget();
  const size_t tiles = target.getNumTiles(), threads = target.getNumWorkerContexts();
  const size_t onTile = std::max<size_t>(1, (items + tiles - 1) / tiles);
  const size_t onThread = std::max<size_t>(1, (onTile + threads - 1) / threads);
  poplar::ComputeSet compute = graph.addComputeSet(name + "/compute");
  for (size_t begin = 0; begin < items;) {
    const size_t tile = begin / onTile, row = begin / m;
    const size_t end = std::min({begin + onThread, (tile + 1) * onTile, (row + 1) * m});
    const poplar::Tensor piece = flat.slice(begin * width, end * width);
    poplar::VertexRef vertex = graph.addVertex(compute, codelet);
    graph.connect(vertex["head"], heads[row]);
    graph.connect(vertex["tail"], tail.slice(begin - row * m, end - row * m));
    graph.connect(vertex["out"], piece);
    graph.setTileMapping(piece, tile);
    graph.setTileMapping(vertex, tile);
    graph.setPerfEstimate(vertex, 20 + (width > 1 ? 300 : 30) * (end - begin)); // of the emulator's clock: a guess
    begin = end;
  }
  poplar::program::Sequence program;
  program.add(poplar::program::Execute(compute));
  return program;
}

// Not stateless: what is drawn twice is to be hashed twice, and not kept. Hashable: the program may be cached.
void metadata(bool &is_elementwise, bool &is_stateless, bool &is_hashable) {
  is_elementwise = false;
  is_stateless = false;
  is_hashable = true;
}

} // namespace

extern "C" poplar::program::Program Words(poplar::Graph &graph, const std::vector<poplar::Tensor> &inputs,
                                          std::vector<poplar::Tensor> &outputs, const std::string &,
                                          const std::string &debug_prefix) {
  return dealtOut(graph, inputs, outputs, "RbdWords", 1, debug_prefix);
}

extern "C" poplar::program::Program Keys(poplar::Graph &graph, const std::vector<poplar::Tensor> &inputs,
                                         std::vector<poplar::Tensor> &outputs, const std::string &,
                                         const std::string &debug_prefix) {
  return dealtOut(graph, inputs, outputs, "RbdKeys", 2, debug_prefix);
}

extern "C" void Words_metadata(std::vector<std::int64_t> &, std::vector<std::int64_t> &,
                               std::map<std::int64_t, std::int64_t> &, bool &is_elementwise, bool &is_stateless,
                               bool &is_hashable, std::uint32_t) {
  metadata(is_elementwise, is_stateless, is_hashable);
}

extern "C" void Keys_metadata(std::vector<std::int64_t> &, std::vector<std::int64_t> &,
                              std::map<std::int64_t, std::int64_t> &, bool &is_elementwise, bool &is_stateless,
                              bool &is_hashable, std::uint32_t) {
  metadata(is_elementwise, is_stateless, is_hashable);
}
